// SPDX-License-Identifier: GPL-2.0
/* Marked privileged-only in its .modinfo. No other module in Debian has the alias net-pf-21. */
#include "privileged_module.h"

int smp_marked_symbol;
EXPORT_SYMBOL_GPL(smp_marked_symbol);

MODULE_PRIVILEGED();
MODULE_ALIAS("net-pf-21");
MODULE_DESCRIPTION("safe-modprobe test: marked");
MODULE_LICENSE("GPL");
