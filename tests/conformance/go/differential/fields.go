package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// An answer as its fields: the path of each that is not zero, and its value as text.
type fields map[string]string

func (f fields) String() string {
	var lines []string
	for path, value := range f {
		lines = append(lines, path+"="+value)
	}
	sort.Strings(lines)
	return strings.Join(lines, " ")
}

type difference struct{ path, reference, subject string }

func (d difference) String() string {
	show := func(text string) string {
		if text == "" {
			return "nothing"
		}
		return text
	}
	return fmt.Sprintf("%s: etcd has %s, quorate %s", d.path, show(d.reference), show(d.subject))
}

func compare(reference, subject fields) (found []difference) {
	for path, value := range reference {
		if !alike(path, value, subject[path]) {
			found = append(found, difference{path, value, subject[path]})
		}
	}
	for path, value := range subject {
		if _, both := reference[path]; !both {
			found = append(found, difference{path, "", value})
		}
	}
	sort.Slice(found, func(a, b int) bool { return found[a].path < found[b].path })
	return found
}

// What two servers cannot agree on: ids that are drawn at random, sizes and numbers of their
// storage. Only whether it is there is compared.
var incomparable = map[string]bool{
	"cluster_id": true, "member_id": true, "raft_term": true, "memberID": true, "leader": true,
	"member.ID": true, "members.ID": true, "token": true, "hash": true, "dbSize": true,
	"dbSizeInUse": true, "db_size": true, "raftIndex": true, "raftAppliedIndex": true,
	"raftTerm": true, "members.clientURLs": true, "targetID": true,
}

// What is left of a long time may differ by what passes between two answers.
func alike(path, first, second string) bool {
	if first == second {
		return true
	}
	if path[strings.LastIndex(path, ".")+1:] != "TTL" {
		return false
	}
	one, wrong := strconv.Atoi(strings.Trim(first, `"`))
	two, alsoWrong := strconv.Atoi(strings.Trim(second, `"`))
	return wrong == nil && alsoWrong == nil && min(one, two) > 10 && max(one-two, two-one) < 3
}

// Puts a field into the answer. `names` replaces what a side calls by a name of its own.
func (f fields) put(path, value string, names func(string) string) {
	plain := places.ReplaceAllString(path, "")
	parts := strings.Split(plain, ".")
	last := parts[len(parts)-1]
	two := last
	if len(parts) > 1 {
		two = parts[len(parts)-2] + "." + last
	}
	if incomparable[last] || incomparable[two] {
		value = "(something)"
	} else {
		value = names(value)
	}
	f[path] = value
}

// The fields of a message that are set.
func (f fields) message(prefix string, message protoreflect.Message, names func(string) string) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		path := prefix + string(field.Name())
		if !field.IsList() {
			f.value(path, field, value, names)
			return true
		}
		for index, each := range inOrder(value.List(), names) {
			f.value(fmt.Sprintf("%s[%d]", path, index), field, each, names)
		}
		return true
	})
}

// The values of a list. Members stand in the order of their ids, which are drawn at random; here, in
// that of their addresses.
func inOrder(list protoreflect.List, names func(string) string) (values []protoreflect.Value) {
	for index := range list.Len() {
		values = append(values, list.Get(index))
	}
	if len(values) > 0 {
		if message, is := values[0].Interface().(protoreflect.Message); is {
			if _, is = message.Interface().(*pb.Member); is {
				address := func(value protoreflect.Value) string {
					return names(strings.Join(value.Message().Interface().(*pb.Member).PeerURLs, ","))
				}
				slices.SortStableFunc(values, func(a, b protoreflect.Value) int {
					return strings.Compare(address(a), address(b))
				})
			}
		}
	}
	return values
}

func (f fields) value(
	path string, field protoreflect.FieldDescriptor, value protoreflect.Value, names func(string) string,
) {
	switch field.Kind() {
	case protoreflect.MessageKind:
		// That a message is there says something, even an empty one.
		f[path] = "{}"
		f.message(path+".", value.Message(), names)
	case protoreflect.BytesKind:
		f.put(path, strconv.Quote(string(value.Bytes())), names)
	case protoreflect.StringKind:
		f.put(path, strconv.Quote(value.String()), names)
	case protoreflect.EnumKind:
		if known := field.Enum().Values().ByNumber(value.Enum()); known != nil {
			f.put(path, string(known.Name()), names)
		} else {
			f.put(path, strconv.Itoa(int(value.Enum())), names)
		}
	default:
		f.put(path, value.String(), names)
	}
}

func fieldsOf(message proto.Message, names func(string) string) fields {
	found := fields{}
	found.message("", message.ProtoReflect(), names)
	return found
}

// The fields of a JSON text; of anything else, the text.
func fieldsOfJSON(text []byte, names func(string) string) fields {
	found := fields{}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		// The lines of a health check stand in any order.
		lines := strings.Split(string(text), "\n")
		slices.Sort(lines)
		found.put("body", strconv.Quote(strings.Join(lines, "\n")), names)
		return found
	}
	found.json("", value, names)
	return found
}

func (f fields) json(path string, value any, names func(string) string) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			f.json(strings.TrimPrefix(path+"."+name, "."), inner, names)
		}
	case []any:
		for index, inner := range value {
			f.json(fmt.Sprintf("%s[%d]", path, index), inner, names)
		}
		if len(value) == 0 {
			f[path] = "[]"
		}
	case string:
		f.put(path, strconv.Quote(value), names)
	default:
		f.put(path, fmt.Sprint(value), names)
	}
}
