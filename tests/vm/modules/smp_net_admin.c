// SPDX-License-Identifier: GPL-2.0
/* Its marker names a capability that suffices. */
#include "privileged_module.h"

MODULE_PRIVILEGED("CAP_NET_ADMIN");
MODULE_ALIAS("net-pf-37");
MODULE_DESCRIPTION("safe-modprobe test: names a capability");
MODULE_LICENSE("GPL");
