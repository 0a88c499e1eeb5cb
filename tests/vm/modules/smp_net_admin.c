// SPDX-License-Identifier: GPL-2.0
/* Names the capability that suffices. */
#include <linux/module.h>

MODULE_INFO(privileged, "CAP_NET_ADMIN");
MODULE_ALIAS("net-pf-37");
MODULE_DESCRIPTION("safe-modprobe test: names a capability");
MODULE_LICENSE("GPL");
