package nsexec

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/test/rig"
)

// alike fails unless two filters give one answer to whatever may make them give
// two: every number near one that the first asks for, with arguments near those.
func alike(t *testing.T, was, is filter) {
	t.Helper()
	arches := []uint32{0, otherArch, unix.AUDIT_ARCH_PPC64LE}
	for _, a := range abis[runtime.GOARCH] {
		arches = append(arches, a.arch)
	}
	values := []uint32{0, 1, ^uint32(0), unix.CLONE_NEWUSER, 0x7fffffff}
	for _, i := range was {
		values = append(values, i.K-1, i.K, i.K+1)
	}
	numbers := append([]uint32{}, values...)
	for n := range uint32(480) {
		numbers = append(numbers, n, n|x32, n|2*x32, n|3*x32)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		numbers = append(numbers, random.Uint32())
	}
	for _, arch := range arches {
		for _, nr := range numbers {
			for range 4 {
				data := seccompData{nr, arch}
				for k := 2; k < len(data); k++ {
					data[k] = values[random.IntN(len(values))]
				}
				want, ok := was.answer(data)
				got, also := is.answer(data)
				if !ok || !also || got != want {
					t.Fatalf("%#x: %#x, %v, want %#x, %v", data, got, also, want, ok)
				}
			}
		}
	}
}

func TestACompactFilterAnswersAsItDid(t *testing.T) {
	d := rig.Docker(t)
	strange := filepath.Join(t.TempDir(), "seccomp.json")
	if err := os.WriteFile(strange, []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
		{"names": ["mkdir", "bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
		{"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"},
		{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]},
		{"names": ["personality"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_NE"}, {"index": 1, "value": 7, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{
		"default":       nil,
		"default-admin": {"--cap-add", "SYS_ADMIN"},
		"strange":       {"--security-opt", "seccomp=" + strange},
	} {
		list, err := traceFilters(d.Run(t, name, flags...).PID)
		if err != nil || len(list) == 0 {
			t.Fatal(list, err)
		}
		for _, was := range list {
			is := was.compact()
			t.Logf("%s: %d instructions of %d", name, len(is), len(was))
			if name != "strange" && len(is) >= len(was) {
				t.Errorf("%s: is not understood", name)
			}
			alike(t, was, is)
		}
	}
}

// What it does not understand, it leaves alone.
func TestAFilterOfAnotherMakeIsLeftAlone(t *testing.T) {
	load, ret := unix.SockFilter{Code: loadData}, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW}
	pad := make(filter, 40)
	for i := range pad {
		pad[i] = ret
	}
	for name, start := range map[string]filter{
		"arithmetic":         {load, {Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, K: 1}, {Code: jumpEqual, K: 5, Jt: 1}, ret},
		"bits of the number": {load, {Code: jumpBits, K: 7, Jt: 1}, ret},
		"the index register": {load, {Code: unix.BPF_MISC | unix.BPF_TAX}, ret},
		"memory":             {load, {Code: unix.BPF_ST, K: 1}, ret},
		"another machine":    {{Code: loadData, K: offArch}, {Code: jumpEqual, K: unix.AUDIT_ARCH_PPC64LE, Jt: 1}, ret},
		"no end":             {load, {Code: jumpTo, K: 1000}},
		"an odd place":       {{Code: loadData, K: 3}, {Code: jumpEqual, K: 1, Jt: 1}, ret},
	} {
		f := append(append(filter{}, start...), pad...)
		if got := f.compact(); len(got) != len(f) {
			t.Errorf("%s: made %d instructions of %d", name, len(got), len(f))
		}
	}
}

// Programs that no compiler would write.
func TestACompactedProgramOfAnyMakeAnswersAsItDid(t *testing.T) {
	codes := []uint16{loadData, loadData, loadConst, and, jumpTo, jumpEqual, jumpEqual, jumpAbove, jumpFrom, jumpBits, answer}
	numbers := []uint32{0, 1, 4, 5, 16, 24, 59, 400, x32, x32 + 59, 1 << 31, unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO | 1}
	random := rand.New(rand.NewPCG(3, 4))
	understood := 0
	for range 500 {
		var was filter
		for range 5 + random.IntN(40) {
			i := unix.SockFilter{Code: codes[random.IntN(len(codes))], K: numbers[random.IntN(len(numbers))]}
			switch i.Code {
			case jumpTo:
				i.K = random.Uint32N(8)
			case loadData:
				i.K = []uint32{offNumber, offNumber, offArch, offFlags, 20}[random.IntN(5)]
			case jumpEqual, jumpAbove, jumpFrom, jumpBits:
				i.Jt, i.Jf = uint8(random.IntN(8)), uint8(random.IntN(8))
			}
			was = append(was, i)
		}
		for k := range uint32(9) {
			was = append(was, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ERRNO | k})
		}
		c := compactor{from: was}
		if is := c.program(); !c.lost {
			understood++
			alike(t, was, is)
		}
	}
	if understood < 30 {
		t.Errorf("only %d of them were understood", understood)
	}
}
