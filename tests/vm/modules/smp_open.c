// SPDX-License-Identifier: GPL-2.0
/* Not marked, like every module in today's kernels. */
#include <linux/module.h>

MODULE_ALIAS("net-pf-42");
MODULE_DESCRIPTION("safe-modprobe test: not marked");
MODULE_LICENSE("GPL");
