// SPDX-License-Identifier: GPL-2.0
/* The init requests another module without waiting: the helper that inserts this one may end before that request. */
#include <linux/kmod.h>
#include <linux/module.h>

static int __init test_init(void)
{
	request_module_nowait("smp-nested-alias");
	return 0;
}
module_init(test_init);

static void __exit test_exit(void) { }
module_exit(test_exit);

MODULE_ALIAS("net-pf-34");
MODULE_DESCRIPTION("safe-modprobe test: requests a module in its init, and does not wait");
MODULE_LICENSE("GPL");
