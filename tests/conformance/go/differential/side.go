package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	// For the names of their services.
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// How long nothing must come for a stream to count as silent.
const quiet = 300 * time.Millisecond

// Where the services of the table are found.
var packages = map[string]string{"Lock": "v3lockpb", "Election": "v3electionpb"}

// One of the two servers, and what a case has come to on it.
type side struct {
	endpoints   []string
	peers       []string
	connections []*grpc.ClientConn
	version     string

	headers   metadata.MD
	variables map[string]string
	streams   map[string]*stream
	raw       map[string]string
}

type stream struct {
	grpc.ClientStream
	output protoreflect.MessageType
	cancel context.CancelFunc
	// What has come, one message or the error that ended it.
	messages chan received
}

type received struct {
	message proto.Message
	err     error
}

func newSide(endpoints, peers string) *side {
	found := &side{endpoints: strings.Split(endpoints, ","), peers: strings.Split(peers, ",")}
	for _, endpoint := range found.endpoints {
		connection, err := grpc.NewClient("passthrough:///"+endpoint,
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		fatal(err)
		found.connections = append(found.connections, connection)
	}
	answer, err := http.Get("http://" + found.endpoints[0] + "/version")
	fatal(err)
	defer answer.Body.Close()
	var version struct{ Etcdserver string }
	fatal(json.NewDecoder(answer.Body).Decode(&version))
	found.version = version.Etcdserver
	return found
}

func fatal(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func (s *side) begin() {
	s.headers, s.variables, s.streams = metadata.MD{}, map[string]string{}, map[string]*stream{}
}

func (s *side) finish() {
	for _, stream := range s.streams {
		stream.cancel()
	}
}

// The latest revision, or 0 where nobody may read it.
func (s *side) revision() int64 {
	bounded, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := pb.NewKVClient(s.connections[0]).Range(bounded, &pb.RangeRequest{Key: []byte("-")})
	if err != nil {
		return 0
	}
	return answer.Header.Revision
}

func (s *side) fill() {
	bounded, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := pb.NewKVClient(s.connections[0]).Put(bounded, &pb.PutRequest{Key: []byte("-")})
	fatal(err)
}

func repeated(count int, pattern string) string {
	var text strings.Builder
	for number := range count {
		text.WriteString(strings.ReplaceAll(pattern, "#", strconv.Itoa(number)) + " ")
	}
	return text.String()
}

// Requests that would fill pages.
var long = map[string]string{
	"large":       strings.Repeat("x", 1_600_000),
	"huge":        strings.Repeat("x", 2_200_000),
	"puts128":     repeated(128, `success{request_put{key:"budget/#"}}`),
	"puts129":     repeated(129, `failure{request_put{key:"budget/#"}}`),
	"ranges63":    repeated(63, `success{request_range{key:"budget/#"}}`),
	"ranges64":    repeated(64, `success{request_range{key:"budget/#"}}`),
	"compares129": repeated(129, `compare{key:"budget/#" target:VERSION}`),
}

// What stands for `$name` in requests.
func (s *side) filled(text string) string {
	for name, value := range long {
		text = strings.ReplaceAll(text, "$"+name, value)
	}
	names := make([]string, 0, len(s.variables))
	for name := range s.variables {
		names = append(names, name)
	}
	// The longest first: `$ab` is not `$a` with a letter.
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	for _, name := range names {
		text = strings.ReplaceAll(text, "$"+name, s.variables[name])
	}
	return text
}

// And back, so that what was drawn at random compares equal. Small numbers are revisions and counts.
func (s *side) named(value string) string {
	for name, known := range s.variables {
		if len(known) > 6 {
			value = strings.ReplaceAll(value, known, "$"+name)
		}
	}
	for number, peer := range s.peers {
		address, name, _ := strings.Cut(peer, "/")
		value = strings.ReplaceAll(value, address, "peer"+strconv.Itoa(number))
		if value == strconv.Quote(name) {
			value = strconv.Quote("member" + strconv.Itoa(number))
		}
	}
	return value
}

func failure(err error) fields {
	found := status.Convert(err)
	return fields{"code": found.Code().String(), "text": strconv.Quote(found.Message())}
}

func method(name string) protoreflect.MethodDescriptor {
	service, call, _ := strings.Cut(name, ".")
	home := packages[service]
	if home == "" {
		home = "etcdserverpb"
	}
	full := protoreflect.FullName(home + "." + service)
	descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	fatal(err)
	found := descriptor.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(call))
	if found == nil {
		fatal(fmt.Errorf("no call %s", name))
	}
	return found
}

func path(method protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
}

func typeOf(message protoreflect.MessageDescriptor) protoreflect.MessageType {
	found, err := protoregistry.GlobalTypes.FindMessageByName(message.FullName())
	fatal(err)
	return found
}

// A request from the table. What an earlier answer should have brought may be missing in it, so that
// it makes no sense; the case has failed then anyway.
func (s *side) request(message protoreflect.MessageDescriptor, text string) proto.Message {
	request := typeOf(message).New().Interface()
	if err := prototext.Unmarshal([]byte(s.filled(text)), request); err != nil {
		fmt.Printf("  no request: %s: %v\n", text, err)
	}
	return request
}

// Does one step and returns what came of it.
func (s *side) perform(step step) fields {
	var answer fields
	switch step.verb {
	case "call":
		answer = s.call(step)
	case "whole":
		answer = s.whole(step)
	case "until":
		answer = s.until(step)
	case "let":
		_, path, _ := strings.Cut(step.rest, "= ")
		s.variables[step.name] = s.raw[path]
		return fields{}
	case "login":
		s.headers.Set("token", s.filled(step.name))
		return fields{}
	case "logout":
		s.headers.Delete("token")
		return fields{}
	case "header":
		s.headers.Set(step.name, step.rest)
		return fields{}
	case "POST", "GET":
		answer = s.http(step)
	case "bare":
		answer = s.bare(step)
	default:
		return s.streamed(step)
	}
	return answer
}

// A call that ends after a while. The servers are not told when: one that knew the deadline might notice it
// before the client does, and which of the two puts it into words would be luck.
func (s *side) context(timeout time.Duration) (context.Context, context.CancelFunc) {
	bounded, cancel := context.WithCancel(context.Background())
	given := time.AfterFunc(timeout, cancel)
	return metadata.NewOutgoingContext(bounded, s.headers.Copy()), func() {
		given.Stop()
		cancel()
	}
}

func (s *side) call(step step) fields {
	called := method(step.name)
	bounded, cancel := s.context(step.timeout)
	defer cancel()
	answer := typeOf(called.Output()).New().Interface()
	err := s.connections[step.endpoint].Invoke(
		bounded, path(called), s.request(called.Input(), step.rest), answer)
	if err != nil {
		return failure(err)
	}
	s.raw = map[string]string{}
	for path, value := range rawFields(answer) {
		s.raw[path] = value
	}
	return fieldsOf(answer, s.named)
}

// The same call again and again, until a field of its answer is as wished: for what happens by itself.
func (s *side) until(step step) fields {
	path, wanted, _ := strings.Cut(step.name, "=")
	step.name, step.rest, _ = strings.Cut(step.rest, " ")
	for deadline := time.Now().Add(step.timeout); ; time.Sleep(20 * time.Millisecond) {
		answer := s.call(step)
		if answer[path] == wanted || time.Now().After(deadline) {
			return answer
		}
	}
}

// The fields as they are, for `let`.
func rawFields(message proto.Message) fields {
	found := fields{}
	var walk func(prefix string, message protoreflect.Message)
	walk = func(prefix string, message protoreflect.Message) {
		message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
			path := prefix + string(field.Name())
			show := func(path string, value protoreflect.Value) {
				switch field.Kind() {
				case protoreflect.MessageKind:
					walk(path+".", value.Message())
				case protoreflect.BytesKind:
					found[path] = string(value.Bytes())
				default:
					found[path] = value.String()
				}
			}
			if field.IsList() {
				for index := range value.List().Len() {
					show(fmt.Sprintf("%s[%d]", path, index), value.List().Get(index))
				}
			} else {
				show(path, value)
			}
			return true
		})
	}
	walk("", message.ProtoReflect())
	return found
}

func (s *side) open(step step, name, request string) (*stream, error) {
	opened := method(name)
	bounded, cancel := s.context(patience)
	description := &grpc.StreamDesc{ServerStreams: true, ClientStreams: opened.IsStreamingClient()}
	raw, err := s.connections[step.endpoint].NewStream(bounded, description, path(opened))
	if err != nil {
		cancel()
		return nil, err
	}
	found := &stream{raw, typeOf(opened.Output()), cancel, make(chan received, 1000)}
	if !opened.IsStreamingClient() {
		if err := raw.SendMsg(s.request(opened.Input(), request)); err != nil {
			cancel()
			return nil, err
		}
		fatal(raw.CloseSend())
	}
	go func() {
		for {
			message := found.output.New().Interface()
			err := raw.RecvMsg(message)
			found.messages <- received{message, err}
			if err != nil {
				return
			}
		}
	}()
	return found, nil
}

// The next message of a stream, or nil if none comes in time.
func (s *stream) next(within time.Duration) *received {
	select {
	case found := <-s.messages:
		return &found
	case <-time.After(within):
		return nil
	}
}

func ended(err error) fields {
	if errors.Is(err, io.EOF) {
		return fields{"code": codes.OK.String()}
	}
	return failure(err)
}

func (s *side) whole(step step) fields {
	stream, err := s.open(step, step.name, step.rest)
	if err != nil {
		return failure(err)
	}
	defer stream.cancel()
	whole := stream.output.New().Interface()
	for {
		found := stream.next(step.timeout)
		switch {
		case found == nil:
			return fields{"code": "nothing came"}
		case errors.Is(found.err, io.EOF):
			return fieldsOf(whole, s.named)
		case found.err != nil:
			return failure(found.err)
		}
		proto.Merge(whole, found.message)
	}
}

func (s *side) streamed(step step) fields {
	if step.verb == "open" {
		name, request, _ := strings.Cut(step.rest, " ")
		stream, err := s.open(step, name, request)
		if err != nil {
			return failure(err)
		}
		s.streams[step.name] = stream
		return fields{}
	}
	stream := s.streams[step.name]
	if stream == nil {
		return fields{"code": "no such stream"}
	}
	switch step.verb {
	case "send":
		input := "etcdserverpb." + strings.TrimSuffix(
			string(stream.output.Descriptor().Name()), "Response") + "Request"
		descriptor, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(input))
		fatal(err)
		if err := stream.SendMsg(s.request(descriptor.Descriptor(), step.rest)); err != nil {
			return ended(err)
		}
		return fields{}
	case "silent":
		if found := stream.next(quiet); found != nil {
			return fields{"came": fmt.Sprint(found.message, found.err)}
		}
		return fields{}
	case "end":
		for {
			found := stream.next(step.timeout)
			if found == nil {
				return fields{"code": "it does not end"}
			}
			if found.err != nil {
				return ended(found.err)
			}
		}
	case "events":
		return s.events(stream, step)
	}
	found := stream.next(step.timeout)
	if found == nil {
		return fields{"code": "nothing came"}
	}
	if found.err != nil {
		return ended(found.err)
	}
	s.raw = rawFields(found.message)
	return fieldsOf(found.message, s.named)
}

// Events until so many have come. How they are spread over messages is the server's affair, but for
// one revision, which is never split; so only the last header counts.
func (s *side) events(stream *stream, step step) fields {
	count, err := strconv.Atoi(step.rest)
	fatal(err)
	whole := &pb.WatchResponse{}
	for len(whole.Events) < count {
		found := stream.next(step.timeout)
		if found == nil {
			return fields{"code": fmt.Sprintf("only %d events came", len(whole.Events))}
		}
		if found.err != nil {
			return ended(found.err)
		}
		message := found.message.(*pb.WatchResponse)
		whole.Events = append(whole.Events, message.Events...)
		whole.WatchId = message.WatchId
		whole.Canceled = whole.Canceled || message.Canceled
	}
	return fieldsOf(whole, s.named)
}

func (s *side) http(step step) fields {
	bounded, cancel := context.WithTimeout(context.Background(), step.timeout)
	defer cancel()
	url := "http://" + s.endpoints[step.endpoint] + step.name
	request, err := http.NewRequestWithContext(
		bounded, step.verb, url, strings.NewReader(s.filled(step.rest)))
	fatal(err)
	for name, values := range s.headers {
		if name == "token" {
			name = "Authorization"
		}
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fields{"failed": err.Error()}
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return fields{"failed": err.Error()}
	}
	found := fieldsOfJSON(body, s.named)
	found["status"] = strconv.Itoa(answer.StatusCode)
	found["content-type"] = answer.Header.Get("Content-Type")
	return found
}
