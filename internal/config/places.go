package config

import (
	"fmt"
	"path/filepath"

	"gopkg.in/yaml.v3"
)

// Places reads of the file at path only where things are kept: HostKey, Record
// and State. Whatever else is wrong with it does not matter, so that somebody can
// be locked out in the minute in which the policy is broken. It is no
// configuration to let people in by: its policy denies everything.
func Places(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c := defaults()
	places := struct {
		HostKey *string `yaml:"host_key"`
		Record  *Record `yaml:"record"`
		State   *State  `yaml:"state"`
	}{&c.HostKey, &c.Record, &c.State}
	if err := yaml.Unmarshal(data, &places); err != nil {
		return nil, fmt.Errorf("config: %s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c.anchor(dir)
	return c, nil
}
