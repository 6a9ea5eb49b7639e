// The differential test: the same requests to a real etcd and to Quorate, answers compared field by
// field.
//
//	table/*.txt ──▶ steps ──┬──▶ etcd    ──▶ fields ──┐
//	                        └──▶ quorate ──▶ fields ──┴──▶ compared ──▶ differences, all explained?
//
// Run by ../../differential_suite.py. The table's language is told in table.go; what is compared, and
// what cannot be (ids, hashes), in fields.go. A difference must be named and explained in the table,
// under its step; an explanation that no difference needs any more fails as well, so that the table
// stays true.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

func main() {
	reference := flag.String("reference", "", "etcd's endpoints, the leader first")
	subject := flag.String("subject", "", "Quorate's endpoints, the leader first")
	referencePeers := flag.String("reference-peers", "", "where etcd's members listen to each other")
	subjectPeers := flag.String("subject-peers", "", "where Quorate's do")
	only := flag.String("only", "", "run the cases whose name contains this")
	verbose := flag.Bool("verbose", false, "print what both answered, step by step")
	flag.Parse()
	sides := []*side{newSide(*reference, *referencePeers), newSide(*subject, *subjectPeers)}
	passed, failed := 0, 0
	for _, path := range flag.Args() {
		cases, err := readTable(path)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		report := func(each scenario, problems []string) {
			name := strings.TrimSuffix(filepath.Base(path), ".txt") + ": " + each.name
			if len(problems) > 0 {
				failed++
				fmt.Printf("FAILED %s\n  %s\n", name, strings.Join(problems, "\n  "))
			} else {
				passed++
				fmt.Printf("passed %s\n", name)
			}
		}
		var together []scenario
		isLost := false
		for _, each := range cases {
			loses := slices.ContainsFunc(each.steps, func(step step) bool { return step.verb == "lose" })
			switch {
			// Without it the others would mean something else.
			case !strings.Contains(each.name, *only) && !loses:
			case isLost:
				together = append(together, each)
			default:
				report(each, run(each, sides, true, *verbose))
			}
			isLost = isLost || loses
		}
		for each, problems := range runTogether(together, sides, *verbose) {
			report(together[each], problems)
		}
	}
	// The suite adds up the runs against each etcd, and prints the closing line.
	fmt.Printf("!%d %d\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// Runs cases that concern each other in nothing, each with connections that it shares and a memory of
// its own; what is unexplained of each.
func runTogether(cases []scenario, sides []*side, verbose bool) [][]string {
	problems := make([][]string, len(cases))
	var group sync.WaitGroup
	for index, each := range cases {
		own := make([]*side, len(sides))
		for which, side := range sides {
			copied := *side
			own[which] = &copied
		}
		group.Go(func() { problems[index] = run(each, own, false, verbose) })
	}
	group.Wait()
	return problems
}

// Has the suite kill two of three servers on both sides, and waits until nobody leads.
func lose() {
	fmt.Println("?lose")
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	fatal(err)
}

// Runs one case on both sides in step, and returns what is unexplained.
func run(each scenario, sides []*side, levels, verbose bool) (problems []string) {
	for _, side := range sides {
		side.begin()
		defer side.finish()
	}
	if levels {
		level(sides)
	}
	var minor int
	if _, err := fmt.Sscanf(sides[0].version, "3.%d", &minor); err != nil {
		return []string{"no version of etcd: " + sides[0].version}
	}
	for _, step := range each.steps {
		if step.since > minor {
			continue
		}
		if step.verb == "lose" {
			lose()
			continue
		}
		answers := make([]fields, len(sides))
		var group sync.WaitGroup
		for index, side := range sides {
			group.Add(1)
			go func() {
				defer group.Done()
				answers[index] = side.perform(step)
			}()
		}
		group.Wait()
		if verbose {
			fmt.Printf("    %s\n      etcd    %v\n      quorate %v\n", step.text, answers[0], answers[1])
		}
		var unexplained []string
		for _, difference := range compare(answers[0], answers[1]) {
			if !explain(step.explained, sides[0].version, difference) &&
				!explain(each.explained, sides[0].version, difference) {
				unexplained = append(unexplained, difference.String())
			}
		}
		unexplained = append(unexplained, stale(step.explained, sides[0].version)...)
		if len(unexplained) > 0 {
			problems = append(problems, fmt.Sprintf("line %d: %s", step.line, step.text))
			for _, problem := range unexplained {
				problems = append(problems, "    "+problem)
			}
		}
	}
	return append(problems, stale(each.explained, sides[0].version)...)
}

// Whether the table explains a difference.
func explain(explained []explanation, version string, difference difference) bool {
	found := false
	for index := range explained {
		if explained[index].concerns(version) && explained[index].covers(difference.path) {
			explained[index].used, found = true, true
		}
	}
	return found
}

// Every explanation that explains nothing any more.
func stale(explained []explanation, version string) (problems []string) {
	for _, each := range explained {
		if each.concerns(version) && !each.used {
			problems = append(problems, "does not differ: "+each.path+": "+each.reason)
		}
	}
	return problems
}

// Both sides begin a case at the same revision. They do so by themselves, unless an earlier case
// has failed; then this keeps one failure from becoming many.
func level(sides []*side) {
	for {
		first, second := sides[0].revision(), sides[1].revision()
		switch {
		case first < second:
			sides[0].fill()
		case second < first:
			sides[1].fill()
		default:
			return
		}
	}
}
