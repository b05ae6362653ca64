package sshd

import "testing"

func TestALoginSaysHowItIsMeant(t *testing.T) {
	for typed, want := range map[string]login{
		"":                         {},
		"web-1":                    {name: "web-1"},
		"breakglass+web-1":         {name: "web-1", breakGlass: true},
		"batch+docker:web-1":       {name: "docker:web-1", batch: true},
		"batch+breakglass+web-1":   {name: "web-1", batch: true, breakGlass: true},
		"breakglass+batch+web-1":   {name: "web-1", batch: true, breakGlass: true},
		"batch+batch+web-1":        {name: "batch+web-1", batch: true},
		"docker:breakglass+web-1":  {name: "docker:breakglass+web-1"},
		"Breakglass+web-1":         {name: "Breakglass+web-1"},
		"web-1+batch+":             {name: "web-1+batch+"},
		"breakglass+":              {breakGlass: true},
		"batch+breakglass+batch+x": {name: "batch+x", batch: true, breakGlass: true},
	} {
		want.typed = typed
		if got := parseLogin(typed); got != want {
			t.Errorf("%q: %+v", typed, got)
		}
	}
}
