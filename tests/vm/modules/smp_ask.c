// SPDX-License-Identifier: GPL-2.0
/*
 * Lets a test call request_module() with any name: the task that writes a name to
 * /proc/smp_ask is the caller. smp_ask_nowait calls request_module_nowait(). smp_ask_kthread takes
 * "COMM NAME" and calls request_module() in a kernel thread called COMM. Reading any of these
 * returns the value of the last call on that open file.
 */
#include <linux/completion.h>
#include <linux/kmod.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include "smp_asked.h"

struct asking {
	char *name;
	int result;
	struct completion done;
};

static ssize_t smp_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	struct smp_asked *asked = file->private_data;
	int err = smp_take(asked, from, size);

	if (err)
		return err;
	asked->result = request_module("%s", asked->text);
	return size;
}

static ssize_t smp_write_nowait(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	struct smp_asked *asked = file->private_data;
	int err = smp_take(asked, from, size);

	if (err)
		return err;
	asked->result = request_module_nowait("%s", asked->text);
	return size;
}

static int smp_thread(void *data)
{
	struct asking *asking = data;

	asking->result = request_module("%s", asking->name);
	complete(&asking->done);
	return 0;
}

static ssize_t smp_write_kthread(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	struct smp_asked *asked = file->private_data;
	int err = smp_take(asked, from, size);
	struct asking asking = { .name = asked->text };
	struct task_struct *thread;
	char *comm;

	if (err)
		return err;
	comm = strsep(&asking.name, " ");
	if (!asking.name)
		return -EINVAL;
	init_completion(&asking.done);
	thread = kthread_run(smp_thread, &asking, "%s", comm);
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	wait_for_completion(&asking.done);
	asked->result = asking.result;
	return size;
}

static const struct proc_ops ask = SMP_OPS(smp_write);
static const struct proc_ops ask_nowait = SMP_OPS(smp_write_nowait);
static const struct proc_ops ask_kthread = SMP_OPS(smp_write_kthread);

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
