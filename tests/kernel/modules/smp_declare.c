// SPDX-License-Identifier: GPL-2.0
/*
 * A call site that declares any capability and prefix. A write of "CAP|PREFIX|NAME" to /proc/smp_declare
 * calls request_module_cap(CAP, PREFIX, "%s", NAME). The PREFIX "(null)" passes NULL.
 * smp_declare_nowait does not wait. smp_declare_as_opener uses the credentials of the file's opener.
 * A read returns the result.
 */
#include <linux/cred.h>
#include <linux/kmod.h>
#include <linux/module.h>
#include "smp_asked.h"

static ssize_t ask(struct file *file, const char __user *from, size_t size, bool wait)
{
	struct smp_asked *asked = file->private_data;
	int cap, err = smp_take(asked, from, size);
	char *name = asked->text, *word, *prefix;

	if (err)
		return err;
	word = strsep(&name, "|");
	prefix = strsep(&name, "|");
	if (!name)
		return -EINVAL;
	err = kstrtoint(word, 10, &cap);
	if (err)
		return err;
	if (!strcmp(prefix, "(null)"))
		prefix = NULL;
	asked->result = wait ? request_module_cap(cap, prefix, "%s", name) :
			       request_module_nowait_cap(cap, prefix, "%s", name);
	return size;
}

static ssize_t smp_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	return ask(file, from, size, true);
}

static ssize_t smp_write_nowait(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	return ask(file, from, size, false);
}

static ssize_t smp_write_as_opener(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	const struct cred *old = override_creds(file->f_cred);
	ssize_t written = ask(file, from, size, true);

	revert_creds(old);
	return written;
}

static const struct proc_ops declare = SMP_OPS(smp_write);
static const struct proc_ops declare_nowait = SMP_OPS(smp_write_nowait);
static const struct proc_ops declare_as_opener = SMP_OPS(smp_write_as_opener);

static int __init test_init(void)
{
	proc_create("smp_declare", 0666, NULL, &declare);
	proc_create("smp_declare_nowait", 0666, NULL, &declare_nowait);
	proc_create("smp_declare_as_opener", 0666, NULL, &declare_as_opener);
	return 0;
}
module_init(test_init);

MODULE_DESCRIPTION("safe-modprobe test: declares any capability and prefix");
MODULE_LICENSE("GPL");
