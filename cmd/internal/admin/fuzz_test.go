package admin

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"testing"
)

// FuzzLoadRequest: whatever is posted, the answer is a backend or an error that
// says something.
func FuzzLoadRequest(f *testing.F) {
	for _, text := range []string{`{"kind":"zcache","size":"20%"}`, `{"kind":"tape"}`, `{"kind":5}`, `{`, ``, `[]`, `{"kind":"zcache"}{}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := NewServer(&fakeService{}, slog.New(slog.DiscardHandler))
		recorder := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(recorder, httptest.NewRequest("POST", "/v1/backends", bytes.NewReader(body)))
		var told Error
		err := json.Unmarshal(recorder.Body.Bytes(), &told)
		if recorder.Code != 201 && (recorder.Code < 400 || err != nil || told.Message == "") {
			t.Errorf("%q was answered with %d %s", body, recorder.Code, recorder.Body)
		}
	})
}
