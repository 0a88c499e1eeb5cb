// SPDX-License-Identifier: GPL-2.0
/* Shows the options that it was loaded with, in /sys/module/smp_options/parameters. */
#include <linux/module.h>

static int number;
module_param(number, int, 0444);
static int other;
module_param(other, int, 0444);

MODULE_DESCRIPTION("safe-modprobe test: options");
MODULE_LICENSE("GPL");
