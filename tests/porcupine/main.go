// Judges register histories with Porcupine and compares with our verdicts.
//
// Input: the lines that `cargo run --package quorate-checker --example registers` prints. It fails at
// the first disagreement, and prints how many histories both found good and bad.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

type call struct {
	Key     int    `json:"key"`
	Kind    string `json:"kind"`
	One     int64  `json:"one"`
	Other   int64  `json:"other"`
	Unknown bool   `json:"unknown"`
	Value   int64  `json:"value"`
	Set     bool   `json:"set"`
	Invoked int64  `json:"invoked"`
	Ended   int64  `json:"ended"`
}

type history struct {
	Seed      int    `json:"seed"`
	Corrupted bool   `json:"corrupted"`
	Ours      string `json:"ours"`
	Calls     []call `json:"calls"`
}

var registers = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, operation := range all {
			key := operation.Input.(call).Key
			byKey[key] = append(byKey[key], operation)
		}
		parts := [][]porcupine.Operation{}
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() interface{} { return int64(0) },
	Step: func(state, input, _ interface{}) (bool, interface{}) {
		held, asked := state.(int64), input.(call)
		switch asked.Kind {
		case "read":
			return asked.Unknown || asked.Value == held, held
		case "write":
			return true, asked.One
		default:
			fits := held == asked.One
			next := held
			if fits {
				next = asked.Other
			}
			return asked.Unknown || asked.Set == fits, next
		}
	},
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	good, bad, corrupted := 0, 0, 0
	for lines.Scan() {
		var one history
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			fmt.Fprintln(os.Stderr, "not a history:", err)
			os.Exit(2)
		}
		operations := make([]porcupine.Operation, len(one.Calls))
		for index, asked := range one.Calls {
			ended := asked.Ended
			if asked.Unknown {
				// It may take effect at any later time; at the very end it disturbs nothing.
				ended = math.MaxInt64
			}
			operations[index] = porcupine.Operation{
				ClientId: index, Input: asked, Call: asked.Invoked, Return: ended,
			}
		}
		theirs := map[porcupine.CheckResult]string{
			porcupine.Ok: "ok", porcupine.Illegal: "violation", porcupine.Unknown: "undecided",
		}[porcupine.CheckOperationsTimeout(registers, operations, time.Minute)]
		if theirs != one.Ours {
			fmt.Printf("seed %d: Porcupine says %s, we say %s\n", one.Seed, theirs, one.Ours)
			os.Exit(1)
		}
		if one.Corrupted {
			corrupted++
		}
		if theirs == "ok" {
			good++
		} else {
			bad++
		}
	}
	if good == 0 || bad == 0 {
		fmt.Println("there must be histories of both kinds")
		os.Exit(1)
	}
	fmt.Printf("%d histories, %d of them corrupted: both say ok %d times, violation %d times\n",
		good+bad, corrupted, good, bad)
}
