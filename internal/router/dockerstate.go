package router

import (
	"encoding/json"
	"fmt"
)

// newDockerState is what a Docker engine keeps on disk of its containers: one
// file for each, DATA-ROOT/containers/ID/config.v2.json.
func newDockerState(root string) *stateDir { return newStateDir(root+"/containers", &dockerLayout) }

var dockerLayout = layout{
	files:   []string{"config.v2.json"},
	holds:   isContainerID,
	parse:   func(_, id string, texts [][]byte) (Found, error) { return parseState(id, texts[0]) },
	oneEach: true,
}

func parseState(id string, text []byte) (Found, error) {
	var in inspection
	if err := json.Unmarshal(text, &in); err != nil {
		return Found{}, err
	}
	found, err := in.found()
	if err == nil && found.ID != id {
		err = fmt.Errorf("is about another container, %s", found.ID)
	}
	return found, err
}
