// etcd's own recipes for Go (clientv3/concurrency: sessions, mutexes, elections, transactional
// memory), while leaders are killed and stopped.
//
// Run by ../../go_suite.py. A line that begins with `!` asks it to do something to the cluster (see
// ../../program.py). What each case says must hold for real etcd just as well.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

// Only a hang takes this long.
const patience = 60 * time.Second

type suite struct {
	endpoints      []string
	client         *clientv3.Client
	answers        *bufio.Scanner
	passed, failed int
}

func (s *suite) run(name string, body func(context.Context) error) {
	bounded, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := body(bounded); err != nil {
		s.failed++
		fmt.Printf("FAILED %s: %v\n", name, err)
		return
	}
	s.passed++
	fmt.Printf("passed %s\n", name)
}

// Has something done to the cluster, and returns the answer.
func (s *suite) ask(what string) string {
	fmt.Println("!" + what)
	s.answers.Scan()
	return s.answers.Text()
}

// A client of its own, as each process would have one.
func (s *suite) another() *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: s.endpoints, DialTimeout: patience, DialKeepAliveTime: 2 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		panic(err)
	}
	return client
}

func (s *suite) session(ctx context.Context, ttl int) (*concurrency.Session, error) {
	return concurrency.NewSession(s.another(), concurrency.WithTTL(ttl), concurrency.WithContext(ctx))
}

// Tries again what a lost leader may spoil, as every user of this client does.
func persist(ctx context.Context, what func() error) error {
	for {
		err := what()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *suite) sessions(ctx context.Context) error {
	first, err := s.session(ctx, 10)
	if err != nil {
		return err
	}
	if _, err := s.client.Put(ctx, "session/kept", "1", clientv3.WithLease(first.Lease())); err != nil {
		return err
	}
	s.ask("kill-leader")
	s.ask("start-killed")
	select {
	case <-first.Done():
		return errors.New("a session ended with the leader")
	case <-time.After(time.Second):
	}
	found, err := s.client.Get(ctx, "session/kept")
	if err != nil || len(found.Kvs) != 1 {
		return fmt.Errorf("the key of a living session is gone: %v, %w", found, err)
	}
	if err := first.Close(); err != nil {
		return err
	}
	found, err = s.client.Get(ctx, "session/kept")
	if err != nil || len(found.Kvs) != 0 {
		return fmt.Errorf("the key of a closed session is there: %v, %w", found, err)
	}
	return nil
}

// A session without its client ends, and not before its time.
func (s *suite) orphans(ctx context.Context) error {
	orphan, err := s.session(ctx, 2)
	if err != nil {
		return err
	}
	if _, err := s.client.Put(ctx, "session/orphan", "1", clientv3.WithLease(orphan.Lease())); err != nil {
		return err
	}
	watch := s.client.Watch(ctx, "session/orphan")
	orphan.Orphan()
	for response := range watch {
		for _, event := range response.Events {
			if event.Type == clientv3.EventTypeDelete {
				return nil
			}
		}
	}
	return errors.New("it did not end")
}

// Many clients, one lock, and a leader that dies: never two holders, and the fencing token grows.
func (s *suite) mutexes(ctx context.Context) error {
	const clients, rounds = 8, 10
	var holders, taken atomic.Int64
	var token int64
	var group sync.WaitGroup
	failures := make(chan error, clients)
	killed := make(chan struct{})
	for number := range clients {
		group.Add(1)
		go func() {
			defer group.Done()
			session, err := s.session(ctx, 30)
			if err != nil {
				failures <- err
				return
			}
			defer session.Close()
			mutex := concurrency.NewMutex(session, "mutex/")
			for round := range rounds {
				if number == 0 && round == rounds/2 {
					close(killed)
				}
				if err := persist(ctx, func() error { return mutex.Lock(ctx) }); err != nil {
					failures <- fmt.Errorf("client %d, round %d: lock: %w", number, round, err)
					return
				}
				if now := holders.Add(1); now != 1 {
					failures <- fmt.Errorf("%d hold the lock", now)
				}
				own := mutex.Header().Revision
				if own < token {
					failures <- fmt.Errorf("fencing went back, from %d to %d", token, own)
				}
				token = own
				taken.Add(1)
				holders.Add(-1)
				if err := persist(ctx, func() error { return mutex.Unlock(ctx) }); err != nil {
					failures <- fmt.Errorf("client %d: unlock: %w", number, err)
					return
				}
			}
		}()
	}
	<-killed
	s.ask("kill-leader")
	group.Wait()
	s.ask("start-killed")
	close(failures)
	for err := range failures {
		return err
	}
	if taken.Load() != clients*rounds {
		return fmt.Errorf("taken %d times", taken.Load())
	}
	return nil
}

func (s *suite) tryLock(ctx context.Context) error {
	one, err := s.session(ctx, 30)
	if err != nil {
		return err
	}
	two, err := s.session(ctx, 30)
	if err != nil {
		return err
	}
	holder, other := concurrency.NewMutex(one, "try/"), concurrency.NewMutex(two, "try/")
	if err := holder.TryLock(ctx); err != nil {
		return err
	}
	if err := other.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		return fmt.Errorf("a held lock: %v", err)
	}
	if answer, err := s.client.Txn(ctx).If(holder.IsOwner()).Commit(); err != nil || !answer.Succeeded {
		return fmt.Errorf("the holder is not the owner: %v, %w", answer, err)
	}
	if err := one.Close(); err != nil {
		return err
	}
	if err := other.Lock(ctx); err != nil {
		return err
	}
	if answer, err := s.client.Txn(ctx).If(holder.IsOwner()).Commit(); err != nil || answer.Succeeded {
		return fmt.Errorf("who has lost it still owns it: %v, %w", answer, err)
	}
	return two.Close()
}

// Candidates campaign, lead, are stopped with the leader, resign; an observer sees each in turn.
func (s *suite) elections(ctx context.Context) error {
	const candidates = 5
	var leading atomic.Int64
	var group sync.WaitGroup
	failures := make(chan error, 2*candidates)
	observer, err := s.session(ctx, 30)
	if err != nil {
		return err
	}
	observing, stop := context.WithCancel(ctx)
	defer stop()
	seen := map[string]bool{}
	var observed sync.WaitGroup
	observed.Add(1)
	go func() {
		defer observed.Done()
		// The stream of an observer ends with the leader it hung on; he opens it again.
		for observing.Err() == nil && len(seen) < candidates {
			for answer := range concurrency.NewElection(observer, "election/").Observe(observing) {
				if seen[string(answer.Kvs[0].Value)] = true; len(seen) == candidates {
					break
				}
			}
		}
	}()
	paused := make(chan struct{})
	var second sync.Once
	for number := range candidates {
		group.Add(1)
		go func() {
			defer group.Done()
			session, err := s.session(ctx, 30)
			if err != nil {
				failures <- err
				return
			}
			defer session.Close()
			election := concurrency.NewElection(session, "election/")
			name := strconv.Itoa(number)
			if err := persist(ctx, func() error { return election.Campaign(ctx, name) }); err != nil {
				failures <- fmt.Errorf("campaign: %w", err)
				return
			}
			if now := leading.Add(1); now != 1 {
				failures <- fmt.Errorf("%d lead", now)
			}
			if err := persist(ctx, func() error { return election.Proclaim(ctx, name) }); err != nil {
				failures <- fmt.Errorf("proclaim: %w", err)
			}
			if number%2 == 0 {
				second.Do(func() { close(paused) })
			}
			// Long enough to be seen: an observer who comes too late misses who has gone.
			time.Sleep(200 * time.Millisecond)
			leading.Add(-1)
			if err := persist(ctx, func() error { return election.Resign(ctx) }); err != nil {
				failures <- fmt.Errorf("resign: %w", err)
			}
		}()
	}
	<-paused
	s.ask("pause-leader")
	time.Sleep(2 * time.Second)
	s.ask("resume")
	group.Wait()
	stop()
	observed.Wait()
	close(failures)
	for err := range failures {
		return err
	}
	if len(seen) == 0 {
		return errors.New("the observer saw nobody")
	}
	return nil
}

// Money moves between accounts in software transactional memory; none is made and none lost.
func (s *suite) transfers(ctx context.Context) error {
	const accounts, workers, moves = 5, 6, 20
	name := func(number int) string { return fmt.Sprintf("account/%d", number%accounts) }
	for number := range accounts {
		if _, err := s.client.Put(ctx, name(number), "100"); err != nil {
			return err
		}
	}
	var group sync.WaitGroup
	failures := make(chan error, workers)
	half := make(chan struct{})
	for worker := range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			client := s.another()
			defer client.Close()
			for move := range moves {
				if worker == 0 && move == moves/2 {
					close(half)
				}
				from, to := name(worker+move), name(worker+2*move+1)
				if from == to {
					continue
				}
				transfer := func(stm concurrency.STM) error {
					had, _ := strconv.Atoi(stm.Get(from))
					has, _ := strconv.Atoi(stm.Get(to))
					stm.Put(from, strconv.Itoa(had-1))
					stm.Put(to, strconv.Itoa(has+1))
					return nil
				}
				// A transfer that ended in an error may have happened; either way the sum stays.
				if err := persist(ctx, func() error {
					_, err := concurrency.NewSTM(client, transfer, concurrency.WithAbortContext(ctx))
					return err
				}); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	<-half
	s.ask("kill-leader")
	group.Wait()
	s.ask("start-killed")
	close(failures)
	for err := range failures {
		return err
	}
	found, err := s.client.Get(ctx, "account/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	sum := 0
	for _, pair := range found.Kvs {
		amount, _ := strconv.Atoi(string(pair.Value))
		sum += amount
	}
	if sum != accounts*100 {
		return fmt.Errorf("%d is there, of %d", sum, accounts*100)
	}
	return nil
}

// A barrier and a queue, in what the client offers for them: watches and transactions.
func (s *suite) watchers(ctx context.Context) error {
	const events = 300
	begin, err := s.client.Get(ctx, "watched/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	watch := s.another().Watch(clientv3.WithRequireLeader(ctx), "watched/",
		clientv3.WithPrefix(), clientv3.WithRev(begin.Header.Revision+1))
	acknowledged := map[string]bool{}
	for number := range events {
		if number == events/2 {
			s.ask("kill-leader")
		}
		key := fmt.Sprintf("watched/%03d", number)
		if _, err := s.client.Put(ctx, key, "1"); err == nil {
			acknowledged[key] = true
		}
	}
	s.ask("start-killed")
	if err := persist(ctx, func() error {
		_, err := s.client.Put(ctx, "watched/~", "the end")
		return err
	}); err != nil {
		return err
	}
	last, next := int64(0), begin.Header.Revision+1
	for {
		for response := range watch {
			if response.Err() != nil {
				break // no leader for a while: it is opened again where it ended
			}
			for _, event := range response.Events {
				if event.Kv.ModRevision <= last {
					return fmt.Errorf("revision %d after %d", event.Kv.ModRevision, last)
				}
				last, next = event.Kv.ModRevision, event.Kv.ModRevision+1
				delete(acknowledged, string(event.Kv.Key))
				if string(event.Kv.Key) == "watched/~" {
					if len(acknowledged) > 0 {
						return fmt.Errorf("%d acknowledged writes were not seen", len(acknowledged))
					}
					return nil
				}
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the watch ended: %w", ctx.Err())
		}
		watch = s.client.Watch(ctx, "watched/", clientv3.WithPrefix(), clientv3.WithRev(next))
	}
}

func main() {
	s := &suite{endpoints: os.Args[1:], answers: bufio.NewScanner(os.Stdin)}
	s.client = s.another()
	s.run("sessions outlive the leader and end when closed", s.sessions)
	s.run("a session without its client ends", s.orphans)
	s.run("a mutex has one holder while the leader dies", s.mutexes)
	s.run("a mutex is tried, owned and lost", s.tryLock)
	s.run("an election has one winner while the leader is stopped", s.elections)
	s.run("transactional memory keeps the sum while the leader dies", s.transfers)
	s.run("a watch misses nothing while the leader dies", s.watchers)
	fmt.Printf("concurrency: %d passed, %d failed\n", s.passed, s.failed)
	if s.failed > 0 {
		os.Exit(1)
	}
}
