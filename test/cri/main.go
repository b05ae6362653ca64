// Command cri makes one pod on a Kubernetes runtime, by CRI calls, and prints
// its IDs: that of the sandbox, then of the containers.
//
//	cri SOCKET CGROUP IMAGE NAMESPACE POD CONTAINER…
//
// Their cgroups are below CGROUP.
//
// It is for tests, and a module of its own so that the project's has none of
// what it needs.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	if len(os.Args) < 7 {
		fmt.Fprintln(os.Stderr, "usage: cri SOCKET CGROUP IMAGE NAMESPACE POD CONTAINER…")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[3], sandboxConfig(os.Args[2], os.Args[4], os.Args[5]), os.Args[6:]); err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

func run(socket, image string, sandbox *cri.PodSandboxConfig, containers []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := grpc.Dial("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	made, err := client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		return err
	}
	fmt.Println(made.PodSandboxId)
	for _, name := range containers {
		id, err := runContainer(ctx, client, made.PodSandboxId, sandbox, name, image)
		if err != nil {
			return fmt.Errorf("container %s: %w", name, err)
		}
		fmt.Println(id)
	}
	return nil
}

// sandboxConfig is on the host's network, which needs no plugin.
func sandboxConfig(cgroup, namespace, pod string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: pod, Namespace: namespace, Uid: "uid-" + pod},
		Labels:   map[string]string{"app": pod},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: cgroup + "/pod-" + pod,
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
}

func runContainer(ctx context.Context, client cri.RuntimeServiceClient, sandbox string, config *cri.PodSandboxConfig, name, image string) (string, error) {
	made, err := client.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId:  sandbox,
		SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name},
			Image:    &cri.ImageSpec{Image: image},
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER},
			}},
		},
	})
	if err != nil {
		return "", err
	}
	_, err = client.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId})
	return made.ContainerId, err
}
