// A program that is small to read and large to compile: the compiler's memory
// is what is wanted, and no object file is ever made of it.
#include <algorithm>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <random>
#include <regex>
#include <string>
#include <unordered_map>
#include <vector>

struct Order {
  int id;
  std::string name;
  std::vector<double> prices;
};

int main(int argc, char **argv) {
  std::regex narrow(argv[1]);
  std::wregex wide(L"[a-z]+(=\\d*)?");
  std::cmatch match;
  std::map<std::string, std::function<int(int)>> actions;
  actions["next"] = [](int x) { return x + 1; };
  std::unordered_map<int, std::map<std::string, std::vector<Order>>> orders;
  orders[1]["open"].push_back({argc, argv[0], {1.5, 2.5}});
  std::vector<Order> sorted = orders[1]["open"];
  std::stable_sort(sorted.begin(), sorted.end(), [](const Order &a, const Order &b) { return a.name < b.name; });
  std::mt19937_64 generator(7);
  std::shuffle(sorted.begin(), sorted.end(), generator);
  auto later = std::async([&] { return actions["next"](sorted.front().id); });
  std::cout << std::regex_match(argv[1], match, narrow) << std::regex_replace(std::wstring(L"a=1"), wide, L"b").size();
  return later.get();
}
