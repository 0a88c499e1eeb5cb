// SPDX-License-Identifier: GPL-2.0
/* Has the alias of a file system, and registers none. */
#include <linux/module.h>

MODULE_ALIAS("fs-smp_no_fs");
MODULE_DESCRIPTION("safe-modprobe test: no file system");
MODULE_LICENSE("GPL");
