package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// A call that gRPC's library would not make: with bytes in its metadata that are no text. Written
// straight onto HTTP/2; what counts is how it ends.
func (s *side) bare(step step) fields {
	name, value, _ := strings.Cut(step.name, "=")
	value, err := url.PathUnescape(value)
	fatal(err)
	call, text, _ := strings.Cut(step.rest, " ")
	called := method(call)
	message, err := proto.Marshal(s.request(called.Input(), text))
	fatal(err)
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	bounded, cancel := context.WithTimeout(context.Background(), step.timeout)
	defer cancel()
	address := "http://" + s.endpoints[step.endpoint] + path(called)
	request, err := http.NewRequestWithContext(
		bounded, http.MethodPost, address, bytes.NewReader(append(body, message...)))
	fatal(err)
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	request.Header[name] = []string{value}
	transport := &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return fields{"failed": err.Error()}
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return fields{"failed": err.Error()}
	}
	// A call that fails at once has but one head.
	said := func(name string) string { return answer.Trailer.Get(name) + answer.Header.Get(name) }
	code, err := strconv.Atoi(said("Grpc-Status"))
	if err != nil {
		return fields{"failed": "no status: " + err.Error()}
	}
	return fields{"code": codes.Code(code).String(), "text": strconv.Quote(said("Grpc-Message"))}
}
