package nsexec

import _ "embed"

//go:embed helper/helper_arm64
var helper []byte
