// SPDX-License-Identifier: GPL-2.0
/*
 * A call site that declares whatever it is told: "CAP|PREFIX|NAME" in /proc/smp_declare is
 * request_module_cap(CAP, PREFIX, "%s", NAME), where the PREFIX (null) is no prefix at all;
 * smp_declare_nowait does not wait. A read tells what it returned.
 */
#include <linux/kmod.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

struct declared {
	char text[128];
	int result;
};

static int smp_open(struct inode *inode, struct file *file)
{
	file->private_data = kzalloc(sizeof(struct declared), GFP_KERNEL);
	return file->private_data ? 0 : -ENOMEM;
}

static int smp_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static ssize_t smp_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct declared *declared = file->private_data;
	char text[16];
	int length = snprintf(text, sizeof(text), "%d\n", declared->result);

	return simple_read_from_buffer(to, size, at, text, length);
}

static ssize_t ask(struct file *file, const char __user *from, size_t size, bool wait)
{
	struct declared *declared = file->private_data;
	char *name = declared->text, *word, *prefix;
	int cap, err;

	memset(declared->text, 0, sizeof(declared->text));
	if (size >= sizeof(declared->text))
		return -ENAMETOOLONG;
	if (copy_from_user(declared->text, from, size))
		return -EFAULT;
	word = strsep(&name, "|");
	prefix = strsep(&name, "|");
	if (!name)
		return -EINVAL;
	err = kstrtoint(word, 10, &cap);
	if (err)
		return err;
	if (!strcmp(prefix, "(null)"))
		prefix = NULL;
	declared->result = wait ? request_module_cap(cap, prefix, "%s", name) :
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

#define OPS(write) { .proc_open = smp_open, .proc_release = smp_release, .proc_read = smp_read, .proc_write = write }
static const struct proc_ops declare = OPS(smp_write);
static const struct proc_ops declare_nowait = OPS(smp_write_nowait);

static int __init test_init(void)
{
	proc_create("smp_declare", 0666, NULL, &declare);
	proc_create("smp_declare_nowait", 0666, NULL, &declare_nowait);
	return 0;
}
module_init(test_init);

MODULE_DESCRIPTION("safe-modprobe test: declares any capability and prefix");
MODULE_LICENSE("GPL");
