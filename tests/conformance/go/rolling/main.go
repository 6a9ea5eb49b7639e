// A program at work on a cluster whose nodes are restarted one after the other: etcd's own Go client
// as it comes, one for all goroutines, with its own rules for what is sent again.
//
//	rolling FILE PREFIX ENDPOINT...
//
// Some goroutines read, write, delete and run transactions; others watch, keep leases alive, and
// grant and revoke leases. What all are told goes into FILE, a history for `quorate-sim check`. An
// error that the client gives its caller is counted with its text: a program without a retry of its
// own would have failed there. Ends at SIGINT and prints one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	workers  = 8
	watchers = 2
	holders  = 2
	keys     = 12
	// Between the calls of one goroutine.
	pause = 15 * time.Millisecond
	// Only a hang takes this long.
	patience = 60 * time.Second
	// Of leases that are kept alive: longer than a restart takes, so that none ends by itself.
	ttl = 30
)

type program struct {
	client  *clientv3.Client
	history *history
	prefix  string
	value   atomic.Int64

	lock     sync.Mutex
	answered int
	slowest  time.Duration
	errors   map[string]int
}

// What has gone wrong for whoever called.
func (p *program) failed(what string, err error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.errors[fmt.Sprintf("%s: %v", what, err)]++
}

// One call: made, and written down before and after.
func (p *program) call(client int, what string, request fields,
	call func(context.Context) (revision int64, response fields, err error)) {
	bounded, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	started := time.Now()
	id := p.history.invoke(client, request)
	revision, response, err := call(bounded)
	if err != nil {
		p.history.tell(fields{"unknown": fields{"id": id, "reason": err.Error()}})
		p.failed(what, err)
		return
	}
	p.history.tell(fields{"ok": fields{"id": id, "revision": revision, "response": response}})
	p.lock.Lock()
	defer p.lock.Unlock()
	p.answered++
	p.slowest = max(p.slowest, time.Since(started))
}

func (p *program) put(client int, key string) {
	value := fmt.Sprint(p.value.Add(1))
	request := fields{"put": fields{"key": key, "value": value}}
	p.call(client, "put", request, func(ctx context.Context) (int64, fields, error) {
		answer, err := p.client.Put(ctx, key, value)
		if err != nil {
			return 0, nil, err
		}
		return answer.Header.Revision, fields{"put": fields{}}, nil
	})
}

func (p *program) get(client int, key, end string, serializable bool) {
	request := fields{"range": fields{"key": key, "range_end": end, "serializable": serializable}}
	var options []clientv3.OpOption
	if end != "" {
		options = append(options, clientv3.WithRange(end))
	}
	if serializable {
		options = append(options, clientv3.WithSerializable())
	}
	p.call(client, "get", request, func(ctx context.Context) (int64, fields, error) {
		answer, err := p.client.Get(ctx, key, options...)
		if err != nil {
			return 0, nil, err
		}
		found := rangeResult(answer.Kvs, answer.Count, answer.More)
		return answer.Header.Revision, fields{"range": found}, nil
	})
}

func (p *program) remove(client int, key string) {
	request := fields{"delete": fields{"key": key, "prev_kv": true}}
	p.call(client, "delete", request, func(ctx context.Context) (int64, fields, error) {
		answer, err := p.client.Delete(ctx, key, clientv3.WithPrevKV())
		if err != nil {
			return 0, nil, err
		}
		deleted := fields{"deleted": answer.Deleted, "prev_kvs": pairs(answer.PrevKvs)}
		return answer.Header.Revision, fields{"delete": deleted}, nil
	})
}

// Reads a key, then writes it if nobody has meanwhile.
func (p *program) replace(client int, key string) {
	bounded, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	seen, err := p.client.Get(bounded, key)
	if err != nil {
		p.failed("get", err)
		return
	}
	var revision int64
	if len(seen.Kvs) > 0 {
		revision = seen.Kvs[0].ModRevision
	}
	value := fmt.Sprint(p.value.Add(1))
	compare := fields{"key": key, "is": "equal", "target": fields{"mod_revision": revision}}
	request := fields{"txn": fields{
		"compares": []fields{compare},
		"success":  []fields{{"put": fields{"key": key, "value": value}}},
		"failure":  []fields{{"range": fields{"key": key}}},
	}}
	p.call(client, "txn", request, func(ctx context.Context) (int64, fields, error) {
		answer, err := p.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
			Then(clientv3.OpPut(key, value)).
			Else(clientv3.OpGet(key)).
			Commit()
		if err != nil {
			return 0, nil, err
		}
		result := fields{"put": fields{}}
		if found := answer.Responses[0].GetResponseRange(); found != nil {
			result = fields{"range": rangeResult(found.Kvs, found.Count, found.More)}
		}
		response := fields{"succeeded": answer.Succeeded, "responses": []fields{result}}
		return answer.Header.Revision, fields{"txn": response}, nil
	})
}

func (p *program) work(number int, over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-time.After(pause):
		}
		key := fmt.Sprintf("%s%d", p.prefix, rand.IntN(keys))
		switch choice := rand.IntN(100); {
		case choice < 40:
			p.put(number, key)
		case choice < 60:
			p.get(number, key, "", false)
		case choice < 65:
			p.get(number, key, "", true)
		case choice < 72:
			p.get(number, p.prefix, clientv3.GetPrefixRangeEnd(p.prefix), false)
		case choice < 77:
			p.remove(number, key)
		default:
			p.replace(number, key)
		}
	}
}

// Watches all keys. The client goes on elsewhere by itself: whoever reads its channel sees one watch.
func (p *program) watch(ctx context.Context, number int) {
	end := clientv3.GetPrefixRangeEnd(p.prefix)
	p.history.tell(fields{"watch_create": fields{
		"watch": number, "client": number, "key": p.prefix, "range_end": end, "prev_kv": true,
	}})
	channel := p.client.Watch(ctx, p.prefix, clientv3.WithRange(end), clientv3.WithPrevKV(),
		clientv3.WithCreatedNotify())
	for message := range channel {
		if err := message.Err(); err != nil {
			p.failed("watch", err)
			return
		}
		told := fields{"watch": number, "revision": message.Header.Revision}
		switch {
		case message.Created:
			p.history.tell(fields{"watch_created": told})
		case len(message.Events) > 0:
			events := make([]fields, 0, len(message.Events))
			for _, each := range message.Events {
				events = append(events, event(each))
			}
			told["events"] = events
			p.history.tell(fields{"watch_message": told})
		default:
			p.history.tell(fields{"watch_progress": told})
		}
	}
	if ctx.Err() == nil {
		p.failed("watch", fmt.Errorf("its channel was closed"))
	}
}

// Keeps a lease alive, and looks at the end whether it was.
func (p *program) hold(ctx context.Context) {
	lease, err := p.client.Grant(context.Background(), ttl)
	if err != nil {
		p.failed("grant", err)
		return
	}
	renewals, err := p.client.KeepAlive(ctx, lease.ID)
	if err != nil {
		p.failed("keep-alive", err)
		return
	}
	for range renewals {
	}
	if ctx.Err() == nil {
		p.failed("keep-alive", fmt.Errorf("its channel was closed"))
	}
	left, err := p.client.TimeToLive(context.Background(), lease.ID)
	if err != nil {
		p.failed("time to live", err)
	} else if left.TTL <= 0 {
		p.failed("time to live", fmt.Errorf("a lease that was kept alive has ended"))
	}
}

// Grants leases, renews each once, and revokes it.
func (p *program) lend(over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-time.After(pause):
		}
		lease, err := p.client.Grant(context.Background(), ttl)
		if err != nil {
			p.failed("grant", err)
			continue
		}
		if _, err := p.client.KeepAliveOnce(context.Background(), lease.ID); err != nil {
			p.failed("keep-alive once", err)
		}
		if _, err := p.client.Revoke(context.Background(), lease.ID); err != nil {
			p.failed("revoke", err)
		}
	}
}

func (p *program) run() {
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, syscall.SIGINT, syscall.SIGTERM)
	over := make(chan struct{})
	held, release := context.WithCancel(context.Background())
	watched, blind := context.WithCancel(context.Background())
	var busy, watching sync.WaitGroup
	for number := range watchers {
		watching.Go(func() { p.watch(watched, number) })
	}
	for range holders {
		busy.Go(func() { p.hold(held) })
	}
	busy.Go(func() { p.lend(over) })
	for number := range workers {
		busy.Go(func() { p.work(number, over) })
	}
	<-interrupt
	close(over)
	release()
	busy.Wait()
	// What was acknowledged must be there.
	p.get(workers, p.prefix, clientv3.GetPrefixRangeEnd(p.prefix), false)
	blind()
	watching.Wait()
}

func main() {
	file, prefix, endpoints := os.Args[1], os.Args[2], os.Args[3:]
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		panic(err)
	}
	found, err := client.Get(context.Background(), prefix)
	if err != nil {
		panic(err)
	}
	cluster := fmt.Sprintf("%x", found.Header.ClusterId)
	history, err := newHistory(file, cluster, found.Header.Revision)
	if err != nil {
		panic(err)
	}
	p := &program{client: client, history: history, prefix: prefix, errors: map[string]int{}}
	p.run()
	told := fields{
		"answered": p.answered, "slowest_milliseconds": p.slowest.Milliseconds(), "errors": p.errors,
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		panic(err)
	}
}
