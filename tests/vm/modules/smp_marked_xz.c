// SPDX-License-Identifier: GPL-2.0
/* Installed compressed, and marked. */
#include <linux/module.h>

MODULE_INFO(privileged, "Y");
MODULE_DESCRIPTION("safe-modprobe test: compressed and marked");
MODULE_LICENSE("GPL");
