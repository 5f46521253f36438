package nbd

import "strings"

// framingCases are conversations about how to converse.
func framingCases() []handshakeCase {
	const structured, extended, list, set = optionStructuredReply, optionExtendedHeaders, optionListMetaContext, optionSetMetaContext
	ack := func(ids ...uint32) (w []wantReply) {
		for _, id := range ids {
			w = append(w, wantReply{id, repAck})
		}
		return w
	}
	then := func(w []wantReply, id, kind uint32) []wantReply { return append(w, wantReply{id, kind}) }
	cases := []handshakeCase{
		{"STRUCTURED_REPLY", fixed, option(structured), ack(structured), goesOn, 0},
		{"STRUCTURED_REPLY with data", fixed, option(structured, filled(1)), then(nil, structured, replyErrInvalid), goesOn, 0},
		{"STRUCTURED_REPLY with 70 KiB of data", fixed, option(structured, filled(70<<10)), then(nil, structured, replyErrInvalid), goesOn, 0},
		{"STRUCTURED_REPLY twice", fixed, join(option(structured), option(structured)), then(ack(structured), structured, replyErrInvalid), goesOn, 0},
		{"STRUCTURED_REPLY after extended headers", fixed, join(option(extended), option(structured)), then(ack(extended), structured, replyErrExtHeaderReqd), goesOn, 0},
		{"EXTENDED_HEADERS", fixed, option(extended), ack(extended), goesOn, 0},
		{"EXTENDED_HEADERS with data", fixed, option(extended, filled(8)), then(nil, extended, replyErrInvalid), goesOn, 0},
		{"EXTENDED_HEADERS twice", fixed, join(option(extended), option(extended)), then(ack(extended), extended, replyErrInvalid), goesOn, 0},
		{"EXTENDED_HEADERS after structured replies", fixed, join(option(structured), option(extended)), ack(structured, extended), goesOn, 0},
		{"EXPORT_NAME after extended headers", fixed, join(option(extended), option(optionExportName, []byte("swap"))), ack(extended), closes, 0},
	}
	for _, o := range []struct {
		id    uint32
		label string
		all   int // contexts that an empty list of queries brings
	}{{list, "LIST_META_CONTEXT", 1}, {set, "SET_META_CONTEXT", 0}} {
		id := o.id
		after := func(kind uint32) []wantReply { return then(ack(structured), id, kind) }
		found := ack(structured)
		for range o.all {
			found = then(found, id, replyMetaContext)
		}
		for _, c := range []handshakeCase{
			{"", fixed, option(id, metaData("swap")), append(found, wantReply{id, repAck}), goesOn, 0},
			{" of an unknown export", fixed, option(id, metaData("tape", "base:allocation")), after(repUnknown), goesOn, 0},
			{" without data", fixed, option(id), after(replyErrInvalid), goesOn, 0},
			{" of 7 bytes", fixed, option(id, filled(7)), after(replyErrInvalid), goesOn, 0},
			{" of nonsense", fixed, option(id, filled(333)), after(replyErrInvalid), goesOn, 0},
			{" without a count", fixed, option(id, be32(4), []byte("swap")), after(replyErrInvalid), goesOn, 0},
			{" with a name of 4 GiB announced", fixed, option(id, be32(1<<32-1), filled(20)), after(replyErrInvalid), goesOn, 0},
			{" with a query too many", fixed, option(id, be32(4), []byte("swap"), be32(2), be32(5), []byte("base:")), after(replyErrInvalid), goesOn, 0},
			{" with 4 billion queries", fixed, option(id, be32(4), []byte("swap"), be32(1<<32-1), be32(0)), after(replyErrInvalid), goesOn, 0},
			{" with bytes behind the queries", fixed, option(id, metaData("swap", "base:allocation"), filled(3)), after(replyErrInvalid), goesOn, 0},
			{" with a query a byte too long", fixed, option(id, be32(4), []byte("swap"), be32(1), be32(6), []byte("base:")), after(replyErrInvalid), goesOn, 0},
			{" with a query of 4 GiB announced", fixed, option(id, be32(4), []byte("swap"), be32(1), be32(1<<32-1)), after(replyErrInvalid), goesOn, 0},
			{" with a query of 4097 bytes", fixed, option(id, metaData("swap", strings.Repeat("q", 4097))), after(replyErrInvalid), goesOn, 0},
			{" with a query of 4096 bytes", fixed, option(id, metaData("swap", strings.Repeat("q", 4096))), after(repAck), goesOn, 0},
			{" with NUL in a query", fixed, option(id, metaData("swap", "base:\x00")), after(replyErrInvalid), goesOn, 0},
			{" with a query that is not UTF-8", fixed, option(id, metaData("swap", "base:\xff")), after(replyErrInvalid), goesOn, 0},
			{" with NUL in the name", fixed, option(id, metaData("swap\x00", "base:allocation")), after(replyErrInvalid), goesOn, 0},
			{" with 6000 queries", fixed, option(id, metaData("swap", make([]string, 6000)...)), after(repAck), goesOn, 0},
			{" over 64 KiB", fixed, option(id, metaData("swap", make([]string, 20000)...)), after(replyErrTooBig), goesOn, 0},
		} {
			c.name = o.label + c.name
			c.send = join(option(structured), c.send)
			cases = append(cases, c)
		}
		cases = append(cases,
			handshakeCase{o.label + " before structured replies", fixed, option(id, metaData("swap", "base:allocation")), then(nil, id, replyErrInvalid), goesOn, 0},
			handshakeCase{o.label + ", 4 GiB announced", fixed, join(option(structured), optionHeader(id, 1<<32-1)), ack(structured), closes, 0},
		)
	}
	return cases
}
