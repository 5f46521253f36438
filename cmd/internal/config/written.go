package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Written is what a configuration file says, by key. Tables of a list have their name
// in the key: export.swap.size. Lists are spelled as one value.
type Written map[string]string

// Written returns what the file says; nothing if there is no file.
func (c *Config) Written() Written { return c.written }

// File is the path of the file, or empty.
func (c *Config) File() string { return c.origins["config"].flag }

// FlagOf returns the flag that stands against what the file says of a key, or "".
func (c *Config) FlagOf(key string) string {
	flag := strings.ReplaceAll(key, "_", "-")
	switch {
	case strings.HasPrefix(key, "backend."):
		flag = "backend"
	case strings.HasPrefix(key, "export.") && strings.HasSuffix(key, ".size"):
		flag = "size"
	}
	if !c.given[flag] {
		return ""
	}
	return "--" + flag
}

// There is what a table of a list is written as, beside its keys.
const There = "(there)"

// Difference is a key that two files say something else of. Empty is the default.
type Difference struct{ Key, Old, New string }

// Compare lists what is different, in the order of keys.
func (w Written) Compare(fresh Written) (all []Difference) {
	var keys []string
	for key := range w {
		keys = append(keys, key)
	}
	for key := range fresh {
		if _, both := w[key]; !both {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if w[key] != fresh[key] {
			all = append(all, Difference{key, w[key], fresh[key]})
		}
	}
	return all
}

// writtenOf collects what a decoded file says.
func writtenOf(f file) Written {
	w := Written{}
	w.table("", reflect.ValueOf(f))
	return w
}

// table adds the fields of a struct with toml tags.
func (w Written) table(prefix string, v reflect.Value) {
	for i := range v.NumField() {
		key := prefix + v.Type().Field(i).Tag.Get("toml")
		field := v.Field(i)
		if field.Kind() == reflect.Pointer {
			if field.IsNil() {
				continue
			}
			field = field.Elem()
			if field.Kind() == reflect.Bool { // false is not the default of all
				w[key] = fmt.Sprint(field.Bool())
				continue
			}
		}
		w.value(key, field)
	}
}

func (w Written) value(key string, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Struct:
		w.table(key+".", v)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			name := tableName(key, v.Index(i), i)
			w[key+"."+name] = There
			w.table(key+"."+name+".", v.Index(i))
		}
	case v.Kind() == reflect.Slice:
		if v.Len() > 0 {
			w[key] = fmt.Sprint(v.Interface())
		}
	case v.Kind() == reflect.Bool:
		if v.Bool() {
			w[key] = "true"
		}
	default:
		if text := fmt.Sprint(v.Interface()); text != "" {
			w[key] = text
		}
	}
}

// tableName is what a table of a list is called: its name, or what that is by default,
// or its number.
func tableName(list string, table reflect.Value, number int) string {
	for _, field := range []string{"Name", "Kind"} {
		if v := table.FieldByName(field); v.IsValid() && v.Kind() == reflect.Pointer && !v.IsNil() {
			return v.Elem().String()
		}
	}
	switch list {
	case "export":
		return DefaultExport
	case "backend":
		return DefaultBackend
	}
	return fmt.Sprint(number + 1)
}
