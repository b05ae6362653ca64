// Package engine runs commands in containers by their engine's own exec, over
// the Docker Engine API: docker, and podman, which speaks it too.
//
// It is for what is to be the engine's doing: its user, its capabilities, its
// limits. It gives no privileges, looks nobody up, and needs an engine that
// answers; nsexec does without one.
package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Exec is a command in a container. It is used once, as os/exec's Cmd.
type Exec struct {
	Socket    string // of the engine
	Container string // full ID
	User      string // UID[:GID]; empty is the container's own
	Args      []string
	Env       []string // besides the container's
	TTY       bool
	Cols      uint16 // of the TTY
	Rows      uint16

	Stdin          io.Reader // nil is none
	Stdout, Stderr io.Writer // with a TTY all is Stdout

	id   string
	conn *net.UnixConn
	from *bufio.Reader // what comes from conn
}

// StartError is why the engine did not run the command. Code is what a shell
// would exit with: 127 if there is no such program, 126 if it is none.
type StartError struct {
	Code int
	Said string
}

func (e *StartError) Error() string { return "engine: " + e.Said }

const (
	patience = 10 * time.Second // with one answer
	maxSaid  = 64 << 10         // bytes of one
)

// Start asks the engine to run the command.
func (e *Exec) Start() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	create := map[string]any{
		"AttachStdin": e.Stdin != nil, "AttachStdout": true, "AttachStderr": true,
		"Tty": e.TTY, "Cmd": e.Args, "Env": e.Env, "User": e.User,
	}
	if e.TTY && e.Rows > 0 {
		create["ConsoleSize"] = []uint16{e.Rows, e.Cols}
	}
	var made struct{ Id string }
	if err := e.ask(ctx, http.MethodPost, "/containers/"+e.Container+"/exec", create, &made); err != nil {
		return err
	}
	if made.Id == "" || strings.Trim(made.Id, "0123456789abcdef") != "" {
		return fmt.Errorf("engine: %s: calls an exec %.80q", e.Socket, made.Id)
	}
	e.id = made.Id
	return e.hijack(ctx)
}

// hijack starts it: the connection of that request becomes its streams.
func (e *Exec) hijack(ctx context.Context) error {
	start := map[string]any{"Detach": false, "Tty": e.TTY}
	if e.TTY && e.Rows > 0 {
		start["ConsoleSize"] = []uint16{e.Rows, e.Cols}
	}
	request, err := request(ctx, http.MethodPost, "/exec/"+e.id+"/start", start)
	if err != nil {
		return err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "tcp")
	response, err := e.send(ctx, request)
	if err != nil {
		return err
	}
	// 200 is that of engines which do not care for Upgrade.
	if response.StatusCode == http.StatusSwitchingProtocols || response.StatusCode == http.StatusOK {
		return nil
	}
	defer e.Close()
	said, _ := io.ReadAll(io.LimitReader(response.Body, maxSaid))
	return refusal(response.StatusCode, said)
}

// send sends a request on a connection of its own, and keeps that.
func (e *Exec) send(ctx context.Context, request *http.Request) (*http.Response, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", e.Socket)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	e.conn, e.from = conn.(*net.UnixConn), bufio.NewReaderSize(conn, 32<<10)
	// Until it has answered; what comes then may take as long as it likes.
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	err = request.Write(conn)
	if err == nil {
		var response *http.Response
		if response, err = http.ReadResponse(e.from, request); err == nil {
			return response, nil
		}
	}
	e.Close()
	return nil, fmt.Errorf("engine: %s: no answer: %w", e.Socket, err)
}

// Wait copies the streams until the command's end, and returns its exit status:
// 128 and the signal's number if one ended it.
func (e *Exec) Wait() (int, error) {
	defer e.Close()
	if e.Stdin != nil {
		// Nobody waits for it: it reads until it is written to no more.
		go func() {
			io.Copy(e.conn, e.Stdin)
			e.conn.CloseWrite()
		}()
	}
	output := &beginning{exec: e, out: e.copyFrames}
	if e.TTY {
		output.out = e.copyTerminal
	}
	if err := output.copy(); err != nil {
		return 0, err
	}
	return e.status()
}

// beginning is the output of a command of which nobody knows yet whether it has
// begun: an engine that could not start it says so where its output would be.
type beginning struct {
	exec *Exec
	out  func() error
}

func (b *beginning) copy() error {
	if _, err := b.exec.from.Peek(1); err != nil {
		return nil // there is none
	}
	state, err := b.exec.inspect()
	if err != nil {
		return err
	}
	if state.Running || state.Pid != 0 || state.ExitCode == nil || *state.ExitCode < 126 {
		return b.out()
	}
	var said bytes.Buffer
	b.exec.Stdout, b.exec.Stderr = &said, &said
	if err := b.out(); err != nil {
		return err
	}
	return startError(strings.TrimSpace(said.String()), *state.ExitCode)
}

func (e *Exec) copyTerminal() error {
	_, err := io.Copy(e.Stdout, e.from)
	return err
}

// copyFrames takes apart what stdout and stderr share: eight bytes, the first
// of which is the descriptor and the last four the size, then so many bytes.
func (e *Exec) copyFrames() error {
	for {
		var head [8]byte
		_, err := io.ReadFull(e.from, head[:])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("engine: %s: %w", e.Socket, err)
		}
		to := e.Stdout
		if head[0] == 2 {
			to = e.Stderr
		}
		if head[0] > 2 {
			return fmt.Errorf("engine: %s: output for descriptor %d", e.Socket, head[0])
		}
		if _, err := io.CopyN(to, e.from, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return err
		}
	}
}

// status is how it ended. The engine may need a moment to know.
func (e *Exec) status() (int, error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		state, err := e.inspect()
		if err != nil {
			return 0, err
		}
		if !state.Running && state.ExitCode != nil {
			return *state.ExitCode, nil
		}
	}
	return 0, fmt.Errorf("engine: %s: has closed the streams of a command that it says runs", e.Socket)
}

// state is what matters of an ExecInspect.
type state struct {
	Running  bool
	ExitCode *int
	Pid      int
}

func (e *Exec) inspect() (s state, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = e.ask(ctx, http.MethodGet, "/exec/"+e.id+"/json", nil, &s)
	return s, err
}

// PID is that of the command's process, on the host; 0 if it does not run.
func (e *Exec) PID() int {
	if s, err := e.inspect(); err == nil && s.Running {
		return s.Pid
	}
	return 0
}

// Resize sets the size of the TTY.
func (e *Exec) Resize(cols, rows uint16) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return e.ask(ctx, http.MethodPost, fmt.Sprintf("/exec/%s/resize?h=%d&w=%d", e.id, rows, cols), nil, nil)
}

// Close hangs up. The engine leaves the command running.
func (e *Exec) Close() error {
	if e.conn == nil {
		return nil
	}
	return e.conn.Close()
}

// ask asks the engine one thing, on a connection of its own.
func (e *Exec) ask(ctx context.Context, method, path string, what, answer any) error {
	request, err := request(ctx, method, path, what)
	if err != nil {
		return err
	}
	request.Close = true
	once := &Exec{Socket: e.Socket}
	response, err := once.send(ctx, request)
	if err != nil {
		return err
	}
	defer once.Close()
	once.conn.SetDeadline(time.Now().Add(patience))
	said, err := io.ReadAll(io.LimitReader(response.Body, maxSaid))
	switch {
	case err != nil:
		return fmt.Errorf("engine: %s: %w", e.Socket, err)
	case response.StatusCode/100 != 2:
		return refusal(response.StatusCode, said)
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(said, answer); err != nil {
		return fmt.Errorf("engine: %s: %w", e.Socket, err)
	}
	return nil
}

func request(ctx context.Context, method, path string, what any) (*http.Request, error) {
	var body io.Reader
	if what != nil {
		text, err := json.Marshal(what)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, body)
	if err == nil && what != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, err
}

// refusal is what an engine says that does not do what it was asked.
func refusal(code int, said []byte) error {
	var told struct{ Message, Cause string }
	if json.Unmarshal(said, &told) != nil || told.Message == "" {
		told.Message = fmt.Sprintf("%d %s", code, http.StatusText(code))
	}
	return startError(told.Message, 125)
}

// startError goes by the words, as docker's own client does, for want of
// anything better.
func startError(said string, code int) error {
	switch {
	case contains(said, "executable file not found", "no such file or directory"):
		code = 127
	case contains(said, "permission denied", "not a directory", "exec format error"):
		code = 126
	}
	return &StartError{Code: code, Said: said}
}

func contains(s string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(s, part) })
}
