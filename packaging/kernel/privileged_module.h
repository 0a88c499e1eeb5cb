/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mark a module as privileged. safe-modprobe(8) then refuses to load it for a
 * request by a caller without the capability:
 *
 *	MODULE_PRIVILEGED();			CAP_SYS_MODULE
 *	MODULE_PRIVILEGED("CAP_NET_ADMIN");	CAP_NET_ADMIN or CAP_SYS_MODULE
 *
 * Use it once in a module, beside MODULE_LICENSE(). The caller must hold the
 * capability in the initial user namespace. The kernel and modprobe(8) ignore
 * the mark; modinfo(8) shows it as one more line.
 */
#ifndef PRIVILEGED_MODULE_H
#define PRIVILEGED_MODULE_H

#include <linux/module.h>

#ifndef MODULE_PRIVILEGED

#define MODULE_PRIVILEGED(cap...)						\
	__PRIVILEGED_FOURTH(, ##cap, __PRIVILEGED_TWICE, __PRIVILEGED_BY,	\
			    __PRIVILEGED_AT_ALL)(cap)

/* The number of arguments decides which of the three macros above is the fourth argument. */
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
