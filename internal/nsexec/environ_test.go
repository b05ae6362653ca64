package nsexec

import (
	"strings"
	"testing"
)

func TestALocaleInUTF8IsTheOneThatTheToolsHave(t *testing.T) {
	const ours = "LC_CTYPE=C.UTF-8"
	for env, want := range map[string]string{
		"":                                     ours,
		"LANG=de_DE.UTF-8":                     ours,
		"LANG=C.UTF-8":                         ours,
		"LANG=ca_ES.utf8@valencia":             ours,
		"LC_CTYPE=UTF-8":                       ours,
		"LC_ALL=en_US.UTF-8 LANG=C LC_CTYPE=C": ours,
		"LANG=en_US.UTF-8 LC_TIME=de_DE":       ours,
		"LC_TIME=C":                            ours,
		"LANG= LC_ALL=":                        ours,
		"LANG=en_US.UTF-8 LC_TICKET=7 COLORTERM=": "LC_TICKET=7 COLORTERM= " + ours,

		"LANG=C":                          "LANG=C",
		"LC_ALL=C LANG=en_US.UTF-8":       "LC_ALL=C LANG=en_US.UTF-8",
		"LANG=de_DE.UTF-8 LC_CTYPE=POSIX": "LANG=de_DE.UTF-8 LC_CTYPE=POSIX",
		"LANG=ja_JP.eucJP":                "LANG=ja_JP.eucJP",
	} {
		given := strings.Fields(env)
		if got := strings.Join(Locale(given), " "); got != want {
			t.Errorf("%q: %q, want %q", env, got, want)
		}
		if strings.Join(given, " ") != env {
			t.Errorf("%q was changed", env)
		}
	}
}
