// Cases of etcd's own Go client, 3.7, which streams large ranges: RangeStream.
//
// Run by ../go_suite.py with the endpoints of a cluster. A line that begins with `!` asks it for
// something (see ../../program.py). A case fails by saying why; what each says must hold for real etcd
// 3.7 just as well.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Only a hang takes this long.
const patience = 60 * time.Second

const (
	notSorted   = "rpc error: code = Unimplemented desc = RangeStream does not support custom sort orders"
	notFiltered = "rpc error: code = Unimplemented desc = RangeStream does not support revision filters"
)

// A hundred thousand keys of a kibibyte, and what a server may hold to list them.
const (
	listed        = 100_000
	writers       = 8
	heldKibibytes = 32 << 10
)

type suite struct {
	answers        *bufio.Scanner
	client         *clientv3.Client
	context        context.Context
	passed, failed int
}

func (s *suite) run(name string, body func() error) {
	if err := body(); err != nil {
		s.failed++
		fmt.Printf("FAILED %s: %v\n", name, err)
		return
	}
	s.passed++
	fmt.Printf("passed %s\n", name)
}

// What a stream brings: all of it as one answer, and in how many pieces it came.
func (s *suite) stream(key string, options ...clientv3.OpOption) (*pb.RangeResponse, int, error) {
	pieces, err := s.client.GetStream(s.context, key, options...)
	if err != nil {
		return nil, 0, err
	}
	whole, count := &pb.RangeResponse{}, 0
	for piece := range pieces {
		if err := piece.Err(); err != nil {
			return nil, count, err
		}
		proto.Merge(whole, piece.RangeResponse)
		count++
	}
	return whole, count, nil
}

// A stream must bring what an ordinary range brings.
func (s *suite) alike(key string, options ...clientv3.OpOption) (int, error) {
	whole, pieces, err := s.stream(key, options...)
	if err != nil {
		return 0, err
	}
	plain, err := s.client.Get(s.context, key, options...)
	if err != nil {
		return 0, err
	}
	if len(whole.Kvs) != len(plain.Kvs) {
		return 0, fmt.Errorf("%d keys streamed, %d by a range", len(whole.Kvs), len(plain.Kvs))
	}
	for index, streamed := range whole.Kvs {
		if !proto.Equal(streamed, plain.Kvs[index]) {
			return 0, fmt.Errorf("%v streamed, %v by a range", streamed, plain.Kvs[index])
		}
	}
	if whole.Count != plain.Count || whole.More != plain.More {
		return 0, fmt.Errorf("count %d, more %v streamed; %d, %v by a range",
			whole.Count, whole.More, plain.Count, plain.More)
	}
	if whole.Header == nil || whole.Header.Revision == 0 || whole.Header.ClusterId == 0 {
		return 0, fmt.Errorf("no header: %v", whole.Header)
	}
	return pieces, nil
}

// Has something done to the cluster, and returns the answer.
func (s *suite) ask(what string) string {
	fmt.Println("!" + what)
	s.answers.Scan()
	return s.answers.Text()
}

// Writes the keys of the long list.
func (s *suite) write(value string) error {
	const batch = 100
	failures := make([]error, writers)
	var group sync.WaitGroup
	for writer := range writers {
		group.Go(func() {
			for begin := writer * batch; begin < listed; begin += writers * batch {
				var puts []clientv3.Op
				for number := begin; number < begin+batch; number++ {
					puts = append(puts, clientv3.OpPut(fmt.Sprintf("list/%06d", number), value))
				}
				if _, err := s.client.Txn(s.context).Then(puts...).Commit(); err != nil {
					failures[writer] = err
					return
				}
			}
		})
	}
	group.Wait()
	return errors.Join(failures...)
}

// Lists them through a stream that is read late, and says by how much the servers have grown.
func (s *suite) list() (kibibytes int, err error) {
	s.ask("forget-peaks")
	pieces, err := s.client.GetStream(s.context, "list/", clientv3.WithPrefix())
	if err != nil {
		return 0, err
	}
	count := 0
	for piece := range pieces {
		if err := piece.Err(); err != nil {
			return 0, err
		}
		if count == 0 {
			// Whatever a server sends ahead, it holds by now.
			time.Sleep(time.Second)
		}
		count += len(piece.Kvs)
	}
	if count != listed {
		return 0, fmt.Errorf("%d keys came", count)
	}
	return strconv.Atoi(s.ask("peak"))
}

// Code and text of an error must be etcd's.
func refused(err error, text string) error {
	if err == nil {
		return errors.New("it was not refused")
	}
	if err.Error() != text {
		return fmt.Errorf("refused with %q, not with %q", err.Error(), text)
	}
	return nil
}

func main() {
	client, err := clientv3.New(clientv3.Config{Endpoints: os.Args[1:], DialTimeout: patience})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	deadline, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := &suite{answers: bufio.NewScanner(os.Stdin), client: client, context: deadline}
	// More than one piece, whatever a server takes for one.
	const keys = 5000
	value := string(bytes.Repeat([]byte("v"), 1024))
	first := int64(0)
	for begin := 0; begin < keys; begin += 100 {
		var puts []clientv3.Op
		for number := begin; number < begin+100; number++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("stream/%05d", number), value))
		}
		answer, err := client.Txn(deadline).Then(puts...).Commit()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if first == 0 {
			first = answer.Header.Revision
		}
	}
	all := clientv3.WithPrefix()
	s.run("a large range comes in pieces and is complete", func() error {
		pieces, err := s.alike("stream/", all)
		if err == nil && pieces < 2 {
			return fmt.Errorf("%d piece", pieces)
		}
		return err
	})
	s.run("single keys, limits, counts, keys alone, from a key on", func() error {
		for _, options := range [][]clientv3.OpOption{
			{},
			{all, clientv3.WithLimit(1)},
			{all, clientv3.WithLimit(1500)},
			{all, clientv3.WithLimit(keys)},
			{all, clientv3.WithCountOnly()},
			{all, clientv3.WithKeysOnly()},
			{clientv3.WithFromKey()},
			{all, clientv3.WithSerializable()},
			{all, clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend)},
			{clientv3.WithRange("stream/00100")},
		} {
			if _, err := s.alike("stream/00000", options...); err != nil {
				return fmt.Errorf("%v: %w", clientv3.OpGet("stream/00000", options...), err)
			}
		}
		if _, err := s.alike("nothing"); err != nil {
			return err
		}
		_, err := s.alike("nothing/", all)
		return err
	})
	s.run("an old revision", func() error {
		_, err := s.alike("stream/", all, clientv3.WithRev(first+5))
		return err
	})
	s.run("what is not streamed is refused as etcd refuses it", func() error {
		for _, each := range []struct {
			text    string
			options []clientv3.OpOption
		}{
			{notSorted, []clientv3.OpOption{
				all, clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend)}},
			{notSorted, []clientv3.OpOption{
				all, clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)}},
			{notFiltered, []clientv3.OpOption{all, clientv3.WithMinModRev(2)}},
			{rpctypes.ErrFutureRev.Error(), []clientv3.OpOption{all, clientv3.WithRev(1 << 40)}},
		} {
			_, _, err := s.stream("stream/", each.options...)
			if err := refused(err, each.text); err != nil {
				return err
			}
		}
		return nil
	})
	s.run("a compacted revision", func() error {
		if _, err := client.Compact(deadline, first+10); err != nil {
			return err
		}
		_, _, err := s.stream("stream/", all, clientv3.WithRev(first+1))
		return refused(err, rpctypes.ErrCompacted.Error())
	})
	s.run("a client that stops reading half way does no harm", func() error {
		short, stop := context.WithCancel(deadline)
		defer stop()
		pieces, err := client.GetStream(short, "stream/", all)
		if err != nil {
			return err
		}
		<-pieces
		stop()
		_, err = s.alike("stream/", all)
		return err
	})
	s.run("a list of 100,000 keys takes little memory of the server", func() error {
		if err := s.write(value); err != nil {
			return err
		}
		held, err := s.list()
		if err != nil {
			return err
		}
		fmt.Printf("       100 MB listed, a server grew by %d KiB at most\n", held)
		if held > heldKibibytes {
			return fmt.Errorf("a server grew by %d KiB", held)
		}
		return nil
	})
	fmt.Printf("go: %d passed, %d failed\n", s.passed, s.failed)
	if s.failed > 0 {
		os.Exit(1)
	}
}
