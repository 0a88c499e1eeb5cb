// SPDX-License-Identifier: GPL-2.0
/* Not marked at all, as every module of today. */
#include <linux/module.h>

MODULE_ALIAS("net-pf-42");
MODULE_DESCRIPTION("safe-modprobe test: not marked");
MODULE_LICENSE("GPL");
