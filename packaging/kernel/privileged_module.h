/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A module that is not loaded because a user's request happens to name it, but
 * only for who may have it:
 *
 *	MODULE_PRIVILEGED();			whoever has CAP_SYS_MODULE
 *	MODULE_PRIVILEGED("CAP_NET_ADMIN");	or has this capability
 *
 * Once in a module, beside MODULE_LICENSE(). The capability counts in the
 * initial user namespace. safe-modprobe(8) keeps to it; for the kernel and for
 * modprobe(8) it is one more line of modinfo(8).
 */
#ifndef PRIVILEGED_MODULE_H
#define PRIVILEGED_MODULE_H

#include <linux/module.h>

#ifndef MODULE_PRIVILEGED

#define MODULE_PRIVILEGED(cap...)						\
	__PRIVILEGED_FOURTH(, ##cap, __PRIVILEGED_TWICE, __PRIVILEGED_BY,	\
			    __PRIVILEGED_AT_ALL)(cap)

/* Which of the three above comes fourth depends on how many arguments stand before them */
#define __PRIVILEGED_FOURTH(a, b, c, fourth, more...) fourth

#define __PRIVILEGED_AT_ALL() MODULE_INFO(privileged, "Y")

#define __PRIVILEGED_BY(cap)							\
	_Static_assert(!__builtin_strncmp(cap, "CAP_", 4) &&			\
		       sizeof(cap) == __builtin_strlen(cap) + 1,		\
		       "MODULE_PRIVILEGED() takes a name such as \"CAP_NET_ADMIN\""); \
	MODULE_INFO(privileged, cap)

#define __PRIVILEGED_TWICE(caps...)						\
	_Static_assert(0, "MODULE_PRIVILEGED() takes one capability")

#endif

#endif
