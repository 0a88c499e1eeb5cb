// SPDX-License-Identifier: GPL-2.0
/* Not marked, but depends on a marked module. */
#include <linux/module.h>

extern int smp_marked_symbol;

static int __init test_init(void)
{
	return smp_marked_symbol;
}
module_init(test_init);

static void __exit test_exit(void) { }
module_exit(test_exit);

MODULE_ALIAS("net-pf-39");
MODULE_DESCRIPTION("safe-modprobe test: depends on a marked one");
MODULE_LICENSE("GPL");
