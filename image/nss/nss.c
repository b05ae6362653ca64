/*
 * A name service of glibc's (nsswitch.conf(5)) that knows root and nobody, for
 * containers that have no /etc/passwd: it is asked after the container's own
 * files. Without it whoami fails, tcpdump and ngrep refuse to start, and ls
 * shows numbers.
 *
 * It needs no library, not even libc. Strings are constant, so that the
 * caller's buffer is not used.
 */
#define NULL ((void *)0)

enum nss_status { TRYAGAIN = -2, UNAVAIL = -1, NOTFOUND = 0, SUCCESS = 1 };

struct passwd {
	char *name, *passwd;
	unsigned uid, gid;
	char *gecos, *dir, *shell;
};

struct group {
	char *name, *passwd;
	unsigned gid;
	char **members;
};

static int is(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

enum { ROOT = 0, NOBODY = 65534 };

static enum nss_status user(struct passwd *p, unsigned uid)
{
	if (uid != ROOT && uid != NOBODY)
		return NOTFOUND;
	p->name = uid ? "nobody" : "root";
	p->passwd = "x";
	p->uid = p->gid = uid;
	p->gecos = p->name;
	p->dir = "/";
	p->shell = "/dev/crashcart/bin/bash";
	return SUCCESS;
}

static enum nss_status group(struct group *g, unsigned gid)
{
	static char *none[] = { NULL };

	if (gid != ROOT && gid != NOBODY)
		return NOTFOUND;
	g->name = gid ? "nogroup" : "root";
	g->passwd = "x";
	g->gid = gid;
	g->members = none;
	return SUCCESS;
}

enum nss_status _nss_crashcart_getpwuid_r(unsigned uid, struct passwd *p, char *buf, unsigned long size, int *err)
{
	return user(p, uid);
}

/*
 * Debian's tcpdump becomes a user of that name, and must stay root here. ngrep
 * becomes nobody.
 */
enum nss_status _nss_crashcart_getpwnam_r(const char *name, struct passwd *p, char *buf, unsigned long size, int *err)
{
	if (is(name, "root") || is(name, "tcpdump"))
		return user(p, ROOT);
	return is(name, "nobody") ? user(p, NOBODY) : NOTFOUND;
}

enum nss_status _nss_crashcart_getgrgid_r(unsigned gid, struct group *g, char *buf, unsigned long size, int *err)
{
	return group(g, gid);
}

enum nss_status _nss_crashcart_getgrnam_r(const char *name, struct group *g, char *buf, unsigned long size, int *err)
{
	if (is(name, "root"))
		return group(g, ROOT);
	return is(name, "nogroup") ? group(g, NOBODY) : NOTFOUND;
}
