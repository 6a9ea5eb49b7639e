package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// The table's language. A line is a step; `case NAME` begins a case; `#` begins a comment.
//
//	KV.Put key:"a" value:"1"          a call, its request in protobuf's text format
//	timeout=500ms Lock.Lock …         the same, given up after that time
//	since=3.7 KV.RangeStream …        not for an etcd that is older
//	@1 KV.Range key:"a"               by the second endpoint; @0, the leader, unless said
//	let NAME = FIELD                  remembers a field of the last answer, for $NAME in requests
//	open W Watch.Watch                a stream; with a request if only the server streams
//	send W create_request{…}          one message on it
//	receive W                         one message of it
//	events W 3                        messages until so many events have come, as one list
//	silent W                          nothing comes for a while
//	end W                             how the stream ends
//	whole KV.RangeStream …            a stream of the server, all of it as one message
//	until FIELD=VALUE KV.Range …      a call, again until its answer has that
//	login $NAME / logout              a token for what follows
//	header NAME VALUE                 metadata for what follows
//	bare NAME=VALUE KV.Range …        a call with metadata that is no text; VALUE escaped as in a path
//	POST /v3/kv/put {"key":"…"}       by HTTP; GET likewise
//	lose                              two of three servers die; the cases that follow run together
//
// Under a step, what differs, and why; at the head of a case, what differs somewhere in it:
//
//	differs FIELD (VERSION): REASON       VERSION: `3.4` or `3.7` (only that etcd), or `etcd` (every one)
type step struct {
	line             int
	text             string
	verb, name, rest string
	endpoint         int
	since            int
	timeout          time.Duration
	explained        []explanation
}

type scenario struct {
	name      string
	steps     []step
	explained []explanation
}

type explanation struct {
	version, path, reason string
	used                  bool
}

// How long a call may take before it counts as hung.
const patience = 20 * time.Second

var differs = regexp.MustCompile(`^differs (\S+) \((3\.\d|etcd)\): (.+)$`)

func (e explanation) concerns(version string) bool {
	return e.version == "etcd" || strings.HasPrefix(version, e.version+".")
}

// A path covers itself and what lies in it, whatever the places in lists.
func (e explanation) covers(path string) bool {
	path = places.ReplaceAllString(path, "")
	return path == e.path || strings.HasPrefix(path, e.path+".")
}

var places = regexp.MustCompile(`\[\d+\]`)

func readTable(path string) ([]scenario, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var cases []scenario
	for number, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		wrong := func(why string) error { return fmt.Errorf("%s:%d: %s", path, number+1, why) }
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "case "):
			cases = append(cases, scenario{name: strings.TrimPrefix(line, "case ")})
		case len(cases) == 0:
			return nil, wrong("a step outside of a case")
		case strings.HasPrefix(line, "differs "):
			current := &cases[len(cases)-1]
			parts := differs.FindStringSubmatch(line)
			if parts == nil {
				return nil, wrong("expected: differs FIELD (VERSION): REASON")
			}
			explained := &current.explained
			if len(current.steps) > 0 {
				explained = &current.steps[len(current.steps)-1].explained
			}
			*explained = append(*explained, explanation{parts[2], parts[1], parts[3], false})
		default:
			step, err := readStep(line)
			if err != nil {
				return nil, wrong(err.Error())
			}
			step.line = number + 1
			current := &cases[len(cases)-1]
			current.steps = append(current.steps, step)
		}
	}
	return cases, nil
}

var verbs = map[string]int{ // verb: how many words belong to it
	"open": 2, "send": 1, "receive": 1, "events": 1, "silent": 1, "end": 1, "whole": 1, "let": 1, "until": 1,
	"lose": 0, "bare": 1, "login": 1, "logout": 0, "header": 1, "POST": 1, "GET": 1,
}

func readStep(line string) (step, error) {
	found := step{text: line, timeout: patience}
	for {
		word, rest, _ := strings.Cut(line, " ")
		if after, is := strings.CutPrefix(word, "@"); is {
			if _, err := fmt.Sscan(after, &found.endpoint); err != nil {
				return found, err
			}
		} else if after, is := strings.CutPrefix(word, "since=3."); is {
			if _, err := fmt.Sscan(after, &found.since); err != nil {
				return found, err
			}
		} else if after, is := strings.CutPrefix(word, "timeout="); is {
			var err error
			if found.timeout, err = time.ParseDuration(after); err != nil {
				return found, err
			}
		} else {
			break
		}
		line = strings.TrimSpace(rest)
	}
	word, rest, _ := strings.Cut(line, " ")
	words, known := verbs[word]
	switch {
	case !known && !strings.Contains(word, "."):
		return found, fmt.Errorf("no such step: %s", word)
	case !known:
		found.verb, found.name, found.rest = "call", word, rest
	default:
		found.verb = word
		if words > 0 {
			found.name, rest, _ = strings.Cut(rest, " ")
		}
		found.rest = rest
	}
	return found, nil
}
