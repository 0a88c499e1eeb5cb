// SPDX-License-Identifier: GPL-2.0
/* Not marked, installed compressed. */
#include <linux/module.h>

MODULE_DESCRIPTION("safe-modprobe test: compressed");
MODULE_LICENSE("GPL");
