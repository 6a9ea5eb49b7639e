package main

import (
	"bufio"
	"encoding/json"
	"os"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A line of a history, or a part of one, as crates/checker/src/history.rs describes it.
type fields map[string]any

// All that clients asked and were told, in the order of real time, for `quorate-sim check`.
type history struct {
	lock    sync.Mutex
	started time.Time
	lines   *bufio.Writer
	next    int64
}

func newHistory(path, cluster string, revision int64) (*history, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	h := &history{started: time.Now(), lines: bufio.NewWriter(file)}
	err = json.NewEncoder(h.lines).Encode(fields{
		"history": 1,
		"origin":  fields{"live": fields{"cluster": cluster, "commit": "clientv3"}},
		"initial": fields{"revision": revision},
	})
	return h, err
}

// Writes a line. It is there to be counted as soon as this returns.
func (h *history) tell(event fields) {
	h.lock.Lock()
	defer h.lock.Unlock()
	line := fields{"at": time.Since(h.started).Nanoseconds(), "event": event}
	if err := json.NewEncoder(h.lines).Encode(line); err != nil {
		panic(err)
	}
	if err := h.lines.Flush(); err != nil {
		panic(err)
	}
}

// Writes that an operation begins, and returns its number.
func (h *history) invoke(client int, request fields) int64 {
	h.lock.Lock()
	h.next++
	id := h.next
	h.lock.Unlock()
	h.tell(fields{"invoke": fields{"id": id, "client": client, "request": request}})
	return id
}

func pair(kv *mvccpb.KeyValue) fields {
	return fields{
		"key": string(kv.Key), "value": string(kv.Value), "create_revision": kv.CreateRevision,
		"mod_revision": kv.ModRevision, "version": kv.Version, "lease": kv.Lease,
	}
}

func pairs(kvs []*mvccpb.KeyValue) []fields {
	all := make([]fields, 0, len(kvs))
	for _, kv := range kvs {
		all = append(all, pair(kv))
	}
	return all
}

func rangeResult(kvs []*mvccpb.KeyValue, count int64, more bool) fields {
	return fields{"key_values": pairs(kvs), "count": count, "more": more}
}

func event(event *clientv3.Event) fields {
	if event.Type == clientv3.EventTypePut {
		put := fields{"kv": pair(event.Kv)}
		if event.PrevKv != nil {
			put["prev_kv"] = pair(event.PrevKv)
		}
		return fields{"put": put}
	}
	deleted := fields{"key": string(event.Kv.Key), "mod_revision": event.Kv.ModRevision}
	if event.PrevKv != nil {
		deleted["prev_kv"] = pair(event.PrevKv)
	}
	return fields{"delete": deleted}
}
