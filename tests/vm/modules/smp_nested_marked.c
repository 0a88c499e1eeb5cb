// SPDX-License-Identifier: GPL-2.0
/* Marked; smp_nested requests it. */
#include <linux/module.h>

MODULE_INFO(privileged, "Y");
MODULE_ALIAS("smp-nested-alias");
MODULE_DESCRIPTION("safe-modprobe test: asked for by an init");
MODULE_LICENSE("GPL");
