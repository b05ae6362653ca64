package nsexec

import _ "embed"

//go:embed helper/helper_amd64
var helper []byte
