// SPDX-License-Identifier: GPL-2.0
/* Not marked, but has a soft dependency on a marked module. */
#include <linux/module.h>

MODULE_SOFTDEP("pre: smp_marked");
MODULE_ALIAS("net-pf-36");
MODULE_DESCRIPTION("safe-modprobe test: soft dependency on a marked one");
MODULE_LICENSE("GPL");
