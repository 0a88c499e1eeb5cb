// SPDX-License-Identifier: GPL-2.0
/* Its init function requests another module, so the helper that inserts this one is the caller. */
#include <linux/kmod.h>
#include <linux/module.h>

static int __init test_init(void)
{
	request_module("smp-nested-alias");
	return 0;
}
module_init(test_init);

static void __exit test_exit(void) { }
module_exit(test_exit);

MODULE_ALIAS("net-pf-33");
MODULE_DESCRIPTION("safe-modprobe test: asks in its init");
MODULE_LICENSE("GPL");
