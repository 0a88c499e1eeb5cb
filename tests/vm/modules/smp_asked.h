/* SPDX-License-Identifier: GPL-2.0 */
/* A /proc file for tests: a write requests a module, and a read returns the result of that request. */
#ifndef SMP_ASKED_H
#define SMP_ASKED_H

#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

struct smp_asked {
	char text[128];
	int result;
};

static int smp_open(struct inode *inode, struct file *file)
{
	file->private_data = kzalloc(sizeof(struct smp_asked), GFP_KERNEL);
	return file->private_data ? 0 : -ENOMEM;
}

static int smp_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static ssize_t smp_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct smp_asked *asked = file->private_data;
	char text[16];
	int length = snprintf(text, sizeof(text), "%d\n", asked->result);

	return simple_read_from_buffer(to, size, at, text, length);
}

static int smp_take(struct smp_asked *asked, const char __user *from, size_t size)
{
	memset(asked->text, 0, sizeof(asked->text));
	if (size >= sizeof(asked->text))
		return -ENAMETOOLONG;
	return copy_from_user(asked->text, from, size) ? -EFAULT : 0;
}

#define SMP_OPS(write) \
	{ .proc_open = smp_open, .proc_release = smp_release, .proc_read = smp_read, .proc_write = write }

#endif
