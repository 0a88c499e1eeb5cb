// SPDX-License-Identifier: GPL-2.0
/* Marked, installed compressed. */
#include <linux/module.h>

MODULE_INFO(privileged, "Y");
MODULE_DESCRIPTION("safe-modprobe test: compressed and marked");
MODULE_LICENSE("GPL");
