// SPDX-License-Identifier: GPL-2.0
/* Not marked, and would like to have a module that is. */
#include <linux/module.h>

MODULE_SOFTDEP("pre: smp_marked");
MODULE_ALIAS("net-pf-36");
MODULE_DESCRIPTION("safe-modprobe test: soft dependency on a marked one");
MODULE_LICENSE("GPL");
