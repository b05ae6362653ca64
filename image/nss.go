package image

import "embed"

// The name service is built by "make helper" from nss/nss.c and kept with the
// sources, so that building an image needs no C compiler; a test builds it anew
// and compares.
//
//go:generate sh nss/build.sh amd64 nss/nss_amd64
//go:generate sh nss/build.sh arm64 nss/nss_arm64
//go:embed nss/nss_amd64 nss/nss_arm64
var nameServices embed.FS

// addNameService has programs find root where the container knows nobody.
func (t *tree) addNameService() error {
	if t.loader == "" {
		return nil // static programs load none
	}
	code, err := nameServices.ReadFile("nss/nss_" + t.arch.name)
	if err != nil {
		return err
	}
	return t.write("lib/libnss_crashcart.so.2", code, 0o644)
}
