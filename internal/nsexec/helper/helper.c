/*
 * The helper: runs a plan, then watches what the plan has started.
 *
 * It knows no policy. Go compiles a command into a list of raw system calls
 * (plan.go) and sends it over the socket; the helper runs them from first to
 * last and says which one failed. It has no libc, no heap, no strings to
 * parse, and straight code. It is run from a sealed memfd, so nothing of the
 * host is behind its /proc/PID/exe.
 *
 * It is run once, as the daemon's guard, of which every session is a fork: a
 * tenth of a millisecond, and no memory of the daemon's in any of them.
 */

typedef unsigned long u64;
typedef long s64;
typedef unsigned char u8;

enum {
	SOCKET = 3,          /* to the daemon, both ways: words of 8 bytes */
	BASE = 0x10000000,   /* where the plan lies, so that Go can write pointers */
	ROOM = 1 << 20,      /* for all of it */
	NAME = 64,           /* of a session, as ps shows it */
	MOST = 16,           /* descriptors that a session is given */
	CGROUP = 9,          /* which of them is the cgroup that it is born in */

	/* In place of a system call: the end of a plan. */
	REAP = -1,
	GUARD = -2,
};

struct step {
	s64 nr;              /* system call number, REAP or GUARD */
	u64 arg[6];
	u8 from[6];          /* k > 0: arg[i] is the result of step k-1 */
	u8 when;             /* k > 0: only if the result of step k-1 ... */
	u8 parent;           /* ... is 0, or with this set: is not 0 */
	u8 may[8];           /* errnos to tolerate */
	s64 result;
};

struct plan {
	u64 size;            /* of all of it, in bytes */
	u64 steps;
	struct step step[];
};

#if defined(__x86_64__)
enum {
	READ = 0, WRITE = 1, CLOSE = 3, LSEEK = 8, MMAP = 9, RECVMSG = 47, WAIT4 = 61, KILL = 62,
	GETDENTS64 = 217, EXIT = 231, OPENAT = 257, UNLINKAT = 263, PPOLL = 271, DUP3 = 292, CLONE3 = 435,
	CLOSE_RANGE = 436, O_DIRECTORY = 0x10000
};
static s64 call(s64 nr, const u64 *a)
{
	s64 result;
	register u64 r10 __asm__("r10") = a[3];
	register u64 r8 __asm__("r8") = a[4];
	register u64 r9 __asm__("r9") = a[5];
	__asm__ volatile("syscall" : "=a"(result)
		: "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
enum {
	READ = 63, WRITE = 64, CLOSE = 57, LSEEK = 62, MMAP = 222, RECVMSG = 212, WAIT4 = 260, KILL = 129,
	GETDENTS64 = 61, EXIT = 94, OPENAT = 56, UNLINKAT = 35, PPOLL = 73, DUP3 = 24, CLONE3 = 435,
	CLOSE_RANGE = 436, O_DIRECTORY = 0x4000
};
static s64 call(s64 nr, const u64 *a)
{
	register u64 x8 __asm__("x8") = nr;
	register u64 x0 __asm__("x0") = a[0];
	register u64 x1 __asm__("x1") = a[1];
	register u64 x2 __asm__("x2") = a[2];
	register u64 x3 __asm__("x3") = a[3];
	register u64 x4 __asm__("x4") = a[4];
	register u64 x5 __asm__("x5") = a[5];
	__asm__ volatile("svc 0" : "+r"(x0)
		: "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
#endif

#define CALL(nr, ...) call(nr, (u64[6]){__VA_ARGS__})

enum {
	POLLIN = 1, WNOHANG = 1, WALL = 0x40000000, ENOENT = 2, EINTR = 4, EMFILE = 24, CTRUNC = 8, REMOVEDIR = 0x200, DT_DIR = 4,
	SIGCHLD = 17, CLONE_INTO_CGROUP_HIGH = 2
};

struct pollfd { int fd; short events, revents; };
struct dirent { u64 ino, off; unsigned short size; u8 type; char name[]; };
struct iovec { u64 base, len; };
struct msghdr { u64 name, namelen, iov, iovlen, control, controllen, flags; };
struct rights { u64 len; int level, type, fd[MOST]; };
struct clone { u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; };

/* The words to the daemon; the first, which a plan writes, is a bare PID. */
enum { FAILED = 2, EXITED = 3, NOT_FORKED = 0xffffff };

static void tell(u64 socket, u64 kind, u64 step, u64 value)
{
	u64 word = kind << 56 | step << 32 | (value & 0xffffffff);
	CALL(WRITE, socket, (u64)&word, sizeof word);
}

static void say(u64 kind, u64 step, u64 value) { tell(SOCKET, kind, step, value); }

/*
 * The session's init: reaps what the session leaves behind, because the
 * container's own init may not; passes on the daemon's signals; and kills the
 * session when its command has ended, or when the daemon closes the socket, or
 * dies. Whoever is in the session may trace it, so it can do no more than the
 * session can.
 */
static void reap(const u64 *a)
{
	u64 signals = a[0], killer = a[1];
	s64 command = a[2], pid = 0, word;
	struct pollfd p[2] = {{SOCKET, POLLIN, 0}, {signals, POLLIN, 0}};
	u8 info[128];
	int status, known = 0;

	while (pid != command) {
		CALL(PPOLL, (u64)p, 2, 0, 0, 8);
		if (p[1].revents & ~POLLIN)
			break; /* never; but if it were, it must not spin */
		if (p[1].revents) {
			CALL(READ, signals, (u64)info, sizeof info);
			do
				pid = CALL(WAIT4, -1, (u64)&status, WNOHANG | WALL);
			while (pid > 0 && pid != command);
		} else if (p[0].revents) {
			if (CALL(READ, SOCKET, (u64)&word, sizeof word) != sizeof word)
				break;
			known = 1; /* by the first word, which is no signal */
			CALL(KILL, -command, word);
		}
	}
	if (pid == command)
		say(EXITED, 0, status);
	CALL(WRITE, killer, (u64)"1", 1);
	do
		pid = CALL(WAIT4, -1, 0, WALL);
	while (pid > 0 || pid == -EINTR);
	/* Not before the daemon holds us: the number would be anybody's. */
	if (!known)
		CALL(READ, SOCKET, (u64)&word, sizeof word);
}

/* Removes the cgroups below dir, and the one below each, that are empty. */
static void sweep(u64 dir)
{
	u8 list[2048] __attribute__((aligned(8)));
	s64 n, fd;

	CALL(LSEEK, dir, 0, 0);
	while ((n = CALL(GETDENTS64, dir, (u64)list, sizeof list)) > 0)
		for (u8 *at = list; at < list + n; at += ((struct dirent *)at)->size) {
			struct dirent *d = (struct dirent *)at;

			if (d->type != DT_DIR || d->name[0] == '.')
				continue;
			fd = CALL(OPENAT, dir, (u64)d->name, O_DIRECTORY);
			CALL(UNLINKAT, fd, (u64)"run", REMOVEDIR);
			CALL(CLOSE, fd);
			CALL(UNLINKAT, dir, (u64)d->name, REMOVEDIR);
		}
}

/*
 * Serves the daemon: each message is the name of a session and its descriptors,
 * and is answered by a child that has these, from 0 on, and no others. Returns
 * 1 in that child, and 0 when the daemon is gone.
 */
static int serve(char *shown)
{
	char name[NAME];
	struct rights r;
	struct iovec iov = {(u64)name, sizeof name};
	s64 n, pid;

	for (;;) {
		struct msghdr m = {0, 0, (u64)&iov, 1, (u64)&r, sizeof r, 0};
		struct clone c = {.flags = (u64)CLONE_INTO_CGROUP_HIGH << 32, .exit_signal = SIGCHLD};
		int count;

		for (int i = 0; i < NAME; i++)
			name[i] = 0;
		n = CALL(RECVMSG, SOCKET, (u64)&m, 0);
		if (n == -EINTR)
			continue;
		if (n <= 0)
			return 0;
		if (m.controllen < sizeof r - sizeof r.fd)
			continue;
		count = (r.len - (sizeof r - sizeof r.fd)) / sizeof r.fd[0];
		c.cgroup = r.fd[CGROUP];
		/* All of them, or the daemon sees the end of its socket. */
		pid = m.flags & CTRUNC ? -EMFILE : CALL(CLONE3, (u64)&c, sizeof c);
		if (pid == 0) {
			/* They came above ours, in order: none is overwritten before its turn. */
			for (int i = 0; i < count; i++)
				CALL(DUP3, r.fd[i], i, 0);
			CALL(CLOSE_RANGE, count, ~0u, 0);
			for (int i = 0; i < NAME; i++)
				shown[i] = name[i];
			return 1;
		}
		if (pid < 0 && count > SOCKET)
			tell(r.fd[SOCKET], FAILED, NOT_FORKED, -pid);
		for (int i = 0; i < count; i++)
			CALL(CLOSE, r.fd[i]);
	}
}

/*
 * When the daemon is gone, however it went, the inits end their sessions; the
 * guard removes the cgroups, and after a second ends who has not ended by then.
 */
static void clear(const u64 *a)
{
	u64 killer = a[0], trees = a[1], count = a[2], name = a[3];
	u64 pause[2] = {0, 20000000};

	for (int i = 0; i < 500; i++) {
		int left = 0;

		for (u64 tree = trees; tree < trees + 2 * count; tree += 2) {
			sweep(tree);
			s64 r = CALL(UNLINKAT, tree + 1, name, REMOVEDIR);
			left |= r && r != -ENOENT;
		}
		if (!left)
			return;
		if (i == 50)
			CALL(WRITE, killer, (u64)"1", 1);
		CALL(PPOLL, 0, 0, (u64)pause, 0, 8);
	}
}

/* Runs the plan that comes over the socket. Returns in a session's process only. */
static void interpret(char *shown)
{
	struct plan *plan = (struct plan *)BASE;
	u64 have = 0;
	s64 n;

	if (CALL(MMAP, BASE, ROOM, 3, 0x32, -1, 0) != BASE)
		CALL(EXIT, 1);
	do {
		n = CALL(READ, SOCKET, BASE + have, ROOM - have);
		if (n <= 0)
			CALL(EXIT, 1);
		have += n;
	} while (have < sizeof *plan || have < plan->size);

	for (u64 i = 0; i < plan->steps; i++) {
		struct step *s = &plan->step[i];
		int ok = 0;

		if (s->when && (plan->step[s->when - 1].result == 0) == s->parent)
			continue;
		for (int k = 0; k < 6; k++)
			if (s->from[k])
				s->arg[k] = plan->step[s->from[k] - 1].result;
		if (s->nr == GUARD && serve(shown))
			return;
		if (s->nr == REAP || s->nr == GUARD) {
			(s->nr == REAP ? reap : clear)(s->arg);
			CALL(EXIT, 0);
		}
		s->result = call(s->nr, s->arg);
		for (int k = 0; k < 8; k++)
			ok |= s->may[k] && s->result == -(s64)s->may[k];
		if (s->result >= 0 || s->result < -4095 || ok)
			continue;
		say(FAILED, i, -s->result);
		CALL(EXIT, 1);
	}
	CALL(EXIT, 1);
}

/* The kernel's stack: argc, argv[0] ... (execve(2)). */
void run(u64 *stack)
{
	for (;;)
		interpret((char *)stack[1]);
}

__asm__(
#if defined(__x86_64__)
	".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call run\n"
#elif defined(__aarch64__)
	".globl _start\n_start: mov x29, xzr\n mov x30, xzr\n mov x0, sp\n b run\n"
#endif
);
