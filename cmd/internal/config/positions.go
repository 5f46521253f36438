package config

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// position is a place in a configuration file, counted from 1.
type position struct{ line, column int }

// positions says where each value of a file stands. go-toml tells positions
// only of errors that it finds itself.
type positions struct {
	path  string
	lines [][]byte
	of    map[string]position // by key: "export[1].size", "listen[0]", lower case
}

// findPositions reads what it can: a file that is not TOML has some.
func findPositions(path string, text []byte) positions {
	p := positions{path: path, lines: bytes.Split(text, []byte("\n")), of: map[string]position{}}
	var parser unstable.Parser
	parser.Reset(text)
	w := positionWalk{positions: p, parser: &parser, count: map[string]int{}}
	for parser.NextExpression() {
		w.expression(parser.Expression())
	}
	return p
}

// positionWalk goes through a file once, from the top.
type positionWalk struct {
	positions
	parser *unstable.Parser
	table  string         // prefix of the keys, from the last [table] line
	count  map[string]int // [[table]] lines so far
}

func (w *positionWalk) expression(n *unstable.Node) {
	switch n.Kind {
	case unstable.Table, unstable.ArrayTable:
		name, at := w.key(n.Key())
		// go-toml takes [export] for the first [[export]] too.
		if name == "export" || name == "backend" || n.Kind == unstable.ArrayTable {
			index := w.count[name]
			w.count[name]++
			name = fmt.Sprintf("%s[%d]", name, index)
		}
		w.of[name] = at
		w.table = name + "."
	case unstable.KeyValue:
		w.keyValue(w.table, n)
	}
}

func (w *positionWalk) keyValue(prefix string, n *unstable.Node) {
	name, at := w.key(n.Key())
	w.value(prefix+name, n.Value(), at)
}

// value records where a value stands; at is the place of its key, which serves
// for arrays, since the parser does not say where they begin.
func (w *positionWalk) value(name string, n *unstable.Node, at position) {
	if n.Raw.Length > 0 {
		at = w.position(n)
	}
	w.of[name] = at
	children := n.Children()
	for i := 0; children.Next(); i++ {
		switch n.Kind {
		case unstable.Array:
			w.value(fmt.Sprintf("%s[%d]", name, i), children.Node(), at)
		case unstable.InlineTable:
			w.keyValue(name+".", children.Node())
		}
	}
}

// key joins the parts of a dotted key, lower case as go-toml ignores case.
func (w *positionWalk) key(parts unstable.Iterator) (name string, at position) {
	var names []string
	for parts.Next() {
		if names == nil {
			at = w.position(parts.Node())
		}
		names = append(names, strings.ToLower(string(parts.Node().Data)))
	}
	return strings.Join(names, "."), at
}

func (w *positionWalk) position(n *unstable.Node) position {
	start := w.parser.Shape(n.Raw).Start
	return position{line: start.Line, column: start.Column}
}

// misuse is an error about a place in the file.
func (p positions) misuse(line, column int, key, problem, hint string) *cli.Error {
	if key != "" {
		key += ": "
	}
	e := cli.Misuse(hint, "%s:%d: %s%s", p.path, line, key, problem)
	e.Excerpt = p.excerpt(line, column)
	return e
}

// excerpt shows a line with a caret below the column, in go-toml's manner.
func (p positions) excerpt(line, column int) string {
	if line < 1 || line > len(p.lines) {
		return ""
	}
	text := strings.TrimRight(string(p.lines[line-1]), "\r")
	number := fmt.Sprint(line)
	// Tabs stay tabs, so that the caret stands where the eye expects it.
	var pad strings.Builder
	for _, r := range text[:min(max(column-1, 0), len(text))] {
		if r != '\t' {
			r = ' '
		}
		pad.WriteRune(r)
	}
	return fmt.Sprintf("%s| %s\n%s| %s^\n", number, text, strings.Repeat(" ", len(number)), pad.String())
}
