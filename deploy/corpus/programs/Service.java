import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;

/**
 * A service's heap as it grows: orders in maps, an index by city, messages in a
 * queue, and holes where orders were closed. It ends at a size that the sampler
 * never asks for.
 */
public class Service {
    static final String[] WORDS = ("archive batch billing broker cargo carrier charge claim clearance client consignee "
        + "container contract customs delay delivery depot destination dispatch dock driver duty export fee fleet "
        + "forwarder freight gate harbour hold import inspection insurance invoice label lane loading manifest "
        + "notice origin pallet parcel pickup port quota rail receipt release route schedule seal ship shipment "
        + "slot stock storage tariff terminal tracking trailer transit truck unit vessel volume warehouse weight").split(" ");

    record Line(String item, int quantity, double price) {}

    record Order(long id, String reference, String customer, String city, List<Line> lines, long created) {}

    static final Random random = new Random(7);

    static String word() {
        return WORDS[random.nextInt(WORDS.length)];
    }

    static Order order(long id) {
        List<Line> lines = new ArrayList<>();
        for (int i = random.nextInt(6); i >= 0; i--) {
            lines.add(new Line(word() + "-" + random.nextInt(10000), 1 + random.nextInt(9), random.nextInt(100000) / 100.0));
        }
        return new Order(id, String.format("%08x/%s", random.nextInt(), word()), word() + " " + word() + " Ltd",
            word() + "ville", lines, 1700000000000L + id * 997);
    }

    public static void main(String[] arguments) {
        Map<Long, Order> orders = new HashMap<>();
        Map<String, List<Order>> byCity = new TreeMap<>();
        ArrayDeque<byte[]> messages = new ArrayDeque<>();
        for (long id = 0; id < 10_000_000; id++) {
            Order order = order(id);
            orders.put(id, order);
            byCity.computeIfAbsent(order.city(), city -> new ArrayList<>()).add(order);
            if (id % 4 == 0) {
                messages.add(order.toString().getBytes());
            }
            if (id % 3 == 2) {
                orders.remove((long) random.nextInt((int) id));
            }
        }
    }
}
