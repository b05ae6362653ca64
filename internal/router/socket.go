package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// maxAnswer bounds an answer, with its headers, in bytes.
const maxAnswer = 8 << 20

// A socket is an HTTP server behind a Unix socket. Every session waits for it,
// hence not net/http's client: handing each request through two goroutines of
// a Transport costs as much as the engine's answer.
type socket struct {
	path string
	idle chan *line // kept for the next request
}

func newSocket(path string) *socket { return &socket{path, make(chan *line, 16)} }

// get makes one GET request. There are no redirects: a 302 is a status.
func (s *socket) get(ctx context.Context, path string) (status int, body []byte, err error) {
	select {
	case kept := <-s.idle:
		if status, body, err = s.over(ctx, kept, path); err == nil || ctx.Err() != nil {
			return status, body, err
		}
		// The server may have restarted since: ask again.
	default:
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", s.path)
	if err != nil {
		return 0, nil, err
	}
	return s.over(ctx, newLine(conn), path)
}

// over makes the request over one line, and keeps that for the next one.
func (s *socket) over(ctx context.Context, l *line, path string) (int, []byte, error) {
	hurry := context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)) })
	status, body, err := l.get(path)
	undisturbed := hurry()
	if err != nil {
		l.conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err() // and not the time-out of the connection
		}
		return 0, nil, fmt.Errorf("%s: %w", s.path, err)
	}
	if l.again && undisturbed {
		select {
		case s.idle <- l:
			return status, body, nil
		default: // enough are kept
		}
	}
	l.conn.Close()
	return status, body, nil
}

// A line is one connection.
type line struct {
	conn  net.Conn
	left  *io.LimitedReader // of what one answer may have
	in    *bufio.Reader
	again bool // it may be used for another request
}

func newLine(conn net.Conn) *line {
	left := &io.LimitedReader{R: conn}
	return &line{conn: conn, left: left, in: bufio.NewReader(left)}
}

func (l *line) get(path string) (status int, body []byte, err error) {
	l.left.N = maxAnswer
	if _, err := fmt.Fprintf(l.conn, "GET %s HTTP/1.1\r\nHost: docker\r\n\r\n", path); err != nil {
		return 0, nil, err
	}
	response, err := http.ReadResponse(l.in, nil)
	if err == nil {
		body, err = io.ReadAll(response.Body)
	}
	if l.left.N <= 0 {
		err = errors.New("answers too much")
	}
	if err != nil {
		return 0, nil, err
	}
	// Bytes that nobody asked for would be the answer to the next request.
	l.again = !response.Close && l.in.Buffered() == 0
	return response.StatusCode, body, nil
}
