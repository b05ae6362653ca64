package nsexec

import (
	"fmt"
	"strconv"
	"strings"
)

// idMap is a user namespace's /proc/PID/uid_map, or gid_map: ranges of numbers
// inside and of those that they are outside (user_namespaces(7)).
type idMap []idRange

type idRange struct{ inside, outside, count int }

func (p *procDir) idMap(file string) (m idMap, err error) {
	b, err := readSmall(p.fd, file)
	if err != nil {
		return nil, gone(err)
	}
	for line := range strings.Lines(string(b)) {
		var n [3]int
		for i, word := range strings.Fields(line) {
			if i < len(n) {
				n[i], _ = strconv.Atoi(word) // the kernel's
			}
		}
		m = append(m, idRange{n[0], n[1], n[2]})
	}
	return m, nil
}

// out is our number for one inside.
func (m idMap) out(id int) (int, error) {
	for _, r := range m {
		if id >= r.inside && id-r.inside < r.count {
			return r.outside + id - r.inside, nil
		}
	}
	return 0, fmt.Errorf("the container's user namespace has no number %d", id)
}

// nobody is what the kernel shows for a number that is not in a namespace.
const nobody = 65534

// in is the number inside for one of ours.
func (m idMap) in(id int) int {
	for _, r := range m {
		if id >= r.outside && id-r.outside < r.count {
			return r.inside + id - r.outside
		}
	}
	return nobody
}

// insider reads who a process is, as effective and in the numbers of its own
// user namespace.
func (p *procDir) insider(uids, gids idMap) (who insider, err error) {
	ids := func(name string, m idMap) (list []int) {
		text, fieldErr := p.status(name)
		if fieldErr != nil {
			err = fieldErr
		}
		for _, word := range strings.Fields(text) {
			id, _ := strconv.Atoi(word)
			list = append(list, m.in(id))
		}
		return list
	}
	users, groups, more := ids("Uid", uids), ids("Gid", gids), ids("Groups", gids)
	if err != nil {
		return who, err
	}
	if len(users) < 2 || len(groups) < 2 {
		return who, fmt.Errorf("no user in its status")
	}
	const effective = 1
	who.user = User{UID: users[effective], GID: groups[effective], Groups: more}
	who.caps, err = p.caps("CapPrm")
	return who, err
}

// caps reads a set of capabilities.
func (p *procDir) caps(name string) (uint64, error) {
	text, err := p.status(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text, 16, 64)
}
