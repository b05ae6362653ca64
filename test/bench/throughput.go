package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// measureBulk is how fast zeros come out of a container and go into one.
func measureBulk(b *bench) error {
	zeros := filepath.Join(b.dir, "zeros")
	size := int64(b.rounds(256, 128)) << 20
	if err := firstError(os.WriteFile(zeros, nil, 0o600), os.Truncate(zeros, size)); err != nil {
		return err
	}
	var out, in []subject
	for _, s := range []*server{b.ours, b.nsenter} {
		m, err := s.share(b.dir)
		if err != nil {
			return err
		}
		defer m.Close()
		out = append(out, func() (float64, error) {
			return copied(m.command(nil, "/bin/dd", "if=/dev/zero", "bs=128k", fmt.Sprintf("count=%d", size>>17)), size>>17)
		})
		in = append(in, func() (float64, error) {
			file, err := os.Open(zeros)
			if err != nil {
				return 0, err
			}
			defer file.Close()
			cmd := m.command(nil, "/bin/dd", "of=/dev/null", "bs=128k", "iflag=fullblock")
			cmd.Stdin = file
			return copied(cmd, size>>17)
		})
	}
	n := b.rounds(7, 3)
	t, err := interleave(n, append(out, in...)...)
	if err != nil {
		return err
	}
	row := Row{Unit: "MiB/s", Samples: n, Note: "dd of zeros over an established connection of OpenSSH's client, its default cipher"}
	b.compareMedians(row, "bulk stdout, client default", againstNsenter, t[0], t[1], ratioAtLeast(1))
	b.compareMedians(row, "bulk stdin, client default", againstNsenter, t[2], t[3], ratioAtLeast(1))
	row.Note = "these are the same figures: without a terminal bytes are counted and not recorded, so both goals hold for them"
	b.compareMedians(row, "  stdout, recording off", againstNsenter, t[0], t[1], ratioAtLeast(1.4))
	b.compareMedians(row, "  stdin, recording off", againstNsenter, t[2], t[3], ratioAtLeast(1.4))
	return nil
}

// copied runs a client whose other end is dd, and returns MiB per second if dd
// says that it has moved so many blocks of 128 KiB.
func copied(cmd *exec.Cmd, blocks int64) (float64, error) {
	var said bytes.Buffer
	cmd.Stderr = &said
	began := time.Now()
	if err := runQuietly(cmd); err != nil {
		return 0, fmt.Errorf("%w: %s", err, said.Bytes())
	}
	seconds := time.Since(began).Seconds()
	if !bytes.Contains(said.Bytes(), fmt.Appendf(nil, "%d+0 records out", blocks)) {
		return 0, fmt.Errorf("bench: dd did not move %d blocks: %q", blocks, said.Bytes())
	}
	return float64(blocks) / 8 / seconds, nil
}

// measureFlood is how fast a terminal full of text is shown.
func measureFlood(b *bench) error {
	var subjects []subject
	for _, s := range []*server{b.ours, b.nsenter} {
		m, err := s.share(b.dir)
		if err != nil {
			return err
		}
		defer m.Close()
		subjects = append(subjects, func() (float64, error) {
			return shown(m.command([]string{"-tt"}, "/bin/cat", "/flood"))
		})
	}
	n := b.rounds(9, 4)
	t, err := interleave(n, subjects...)
	if err != nil {
		return err
	}
	row := Row{Unit: "MiB/s", Samples: n, Note: fmt.Sprintf("%d MiB of text by cat, OpenSSH's client with -tt; ours recorded", floodMiB)}
	b.compareMedians(row, "pty flood, recorded", againstNsenter, t[0], t[1], ratioAtLeast(0.9))
	return nil
}

// shown runs a client that shows /flood and returns MiB per second.
func shown(cmd *exec.Cmd) (float64, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, out)
	if err := firstError(err, cmd.Wait()); err != nil {
		return 0, fmt.Errorf("bench: flood: %w", err)
	}
	if n < floodMiB<<20 {
		return 0, fmt.Errorf("bench: flood: %d bytes shown of %d", n, floodMiB<<20)
	}
	return float64(n) / (1 << 20) / time.Since(began).Seconds(), nil
}

// measureRate is how many people can run a command each, and what one costs.
func measureRate(b *bench) error {
	servers := []*server{b.ours, b.nsenter, b.exact}
	cost := make([]samples, len(servers))
	var subjects []subject
	for i, s := range servers {
		subjects = append(subjects, func() (float64, error) {
			rate, each, err := s.rush(time.Duration(b.rounds(3000, 1500)) * time.Millisecond)
			cost[i] = append(cost[i], each*1e3)
			return rate, err
		})
	}
	n := b.rounds(5, 3)
	t, err := interleave(n, subjects...)
	if err != nil {
		return err
	}
	row := Row{Unit: "/s", Samples: n, Note: "4 clients of x/crypto at once, curve25519; CPU is of the server and all that it started"}
	b.compareMedians(row, "connect + exec", againstNsenter, t[0], t[1], ratioAtLeast(6))
	b.compareMedians(row, "  the same, named commands only", againstNsenter, t[2], t[1], nil)
	row.Unit = "ms"
	b.compareMedians(row, "connect + exec, CPU each", againstNsenter, cost[0], cost[1], ratioAtMost(0.15))
	b.compareMedians(row, "  the same, named commands only", againstNsenter, cost[2], cost[1], nil)
	return nil
}

// rush has four clients connect, run a command and leave, again and again. It
// returns how many a second there were, and the CPU seconds of each.
func (s *server) rush(length time.Duration) (rate, each float64, err error) {
	before, err := s.cpu.seconds()
	if err != nil {
		return 0, 0, err
	}
	var (
		wg    sync.WaitGroup
		done  [4]int
		wrong [4]error
		began = time.Now()
	)
	for i := range done {
		wg.Go(func() {
			for time.Since(began) < length && wrong[i] == nil {
				wrong[i] = s.visit()
				done[i]++
			}
		})
	}
	wg.Wait()
	seconds := time.Since(began).Seconds()
	if err := firstError(wrong[:]...); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", s.name, err)
	}
	after, err := s.settledCPU()
	n := float64(done[0] + done[1] + done[2] + done[3])
	return n / seconds, (after - before) / n, err
}

func (s *server) visit() error {
	client, err := s.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	return runOn(client, "/bin/true")
}

// settledCPU reads the meter when all that served the clients is gone.
func (s *server) settledCPU() (float64, error) {
	if err := eventually(s.alone); err != nil {
		return 0, err
	}
	return s.cpu.seconds()
}
