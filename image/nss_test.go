package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

// What is embedded must be what nss.c says, or nobody could review it. Another
// compiler makes other bytes of the same source.
func TestTheNameServiceIsBuiltFromItsSource(t *testing.T) {
	const compilerOfRecord = "12.2.0"
	for arch, cc := range map[string][2]string{
		"amd64": {"x86_64-linux-gnu-gcc", "gcc"},
		"arm64": {"aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"},
	} {
		need.Tool(t, cc[0], cc[1])
		built := filepath.Join(t.TempDir(), arch)
		if out, err := exec.Command("sh", "nss/build.sh", arch, built).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", arch, err, out)
		}
		fresh, err := os.ReadFile(built)
		must(t, err)
		kept, err := nameServices.ReadFile("nss/nss_" + arch)
		must(t, err)
		compiler := strings.TrimSpace(run(t, cc[0]+" -dumpfullversion"))
		if compiler != compilerOfRecord {
			t.Logf("%s is %s, the name services were built by %s: only built, not compared", cc[0], compiler, compilerOfRecord)
			continue
		}
		if !bytes.Equal(fresh, kept) {
			t.Errorf("nss_%s is not what nss.c makes (try: make helper)", arch)
		}
	}
}
