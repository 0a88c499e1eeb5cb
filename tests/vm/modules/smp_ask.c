// SPDX-License-Identifier: GPL-2.0
/*
 * A test's mouth: whoever writes a name to /proc/smp_ask is the caller of request_module() with
 * that very name. smp_ask_nowait does not wait, smp_ask_kthread ("COMM NAME") asks from a
 * kernel thread of that name. A read tells what request_module() returned.
 */
#include <linux/completion.h>
#include <linux/kmod.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

struct asked {
	char comm[16], name[64];
	int result;
	struct completion done;
};

static int smp_open(struct inode *inode, struct file *file)
{
	file->private_data = kzalloc(sizeof(struct asked), GFP_KERNEL);
	return file->private_data ? 0 : -ENOMEM;
}

static int smp_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static ssize_t smp_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct asked *asked = file->private_data;
	char text[16];
	int length = snprintf(text, sizeof(text), "%d\n", asked->result);

	return simple_read_from_buffer(to, size, at, text, length);
}

static int take(struct asked *asked, const char __user *from, size_t size)
{
	memset(asked->name, 0, sizeof(asked->name));
	if (size >= sizeof(asked->name))
		return -ENAMETOOLONG;
	return copy_from_user(asked->name, from, size) ? -EFAULT : 0;
}

static ssize_t smp_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	struct asked *asked = file->private_data;
	int err = take(asked, from, size);

	if (err)
		return err;
	asked->result = request_module("%s", asked->name);
	return size;
}

static ssize_t smp_write_nowait(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	struct asked *asked = file->private_data;
	int err = take(asked, from, size);

	if (err)
		return err;
	asked->result = request_module_nowait("%s", asked->name);
	return size;
}

static int smp_thread(void *data)
{
	struct asked *asked = data;
	char *name = strchr(asked->name, ' ');

	asked->result = request_module("%s", name + 1);
	complete(&asked->done);
	return 0;
}

static ssize_t smp_write_kthread(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	struct asked *asked = file->private_data;
	struct task_struct *thread;
	int err = take(asked, from, size);
	char *space = strchr(asked->name, ' ');

	if (err)
		return err;
	if (!space)
		return -EINVAL;
	strscpy(asked->comm, asked->name, min_t(size_t, sizeof(asked->comm), space - asked->name + 1));
	init_completion(&asked->done);
	thread = kthread_run(smp_thread, asked, "%s", asked->comm);
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	wait_for_completion(&asked->done);
	return size;
}

#define OPS(write) { .proc_open = smp_open, .proc_release = smp_release, .proc_read = smp_read, .proc_write = write }
static const struct proc_ops ask = OPS(smp_write);
static const struct proc_ops ask_nowait = OPS(smp_write_nowait);
static const struct proc_ops ask_kthread = OPS(smp_write_kthread);

static int __init test_init(void)
{
	proc_create("smp_ask", 0666, NULL, &ask);
	proc_create("smp_ask_nowait", 0666, NULL, &ask_nowait);
	proc_create("smp_ask_kthread", 0666, NULL, &ask_kthread);
	return 0;
}
module_init(test_init);

MODULE_DESCRIPTION("safe-modprobe test: asks for any name");
MODULE_LICENSE("GPL");
