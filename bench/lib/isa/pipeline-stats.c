// pipeline-stats [--text] FILE.spv ...: compiles compute shaders with the installed Vulkan driver, without running them, and prints what its
// compiler says about each as a line of JSON: {"file", "device", "subgroup", "statistics": {name: number}}. With --text the machine code
// follows. Meant for Mesa's null devices: RADV_FORCE_FAMILY=navi31 and the ICD of radeon_icd.json. Exit status 2: no device, or a call failed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vulkan/vulkan.h>

#define MAX_SETS 4
#define MAX_BINDINGS 32
#define MAX_IDS 65536
#define MAX_STATISTICS 64

enum { OP_ENTRY_POINT = 15, OP_VARIABLE = 59, OP_DECORATE = 71, DECORATION_BINDING = 33, DECORATION_SET = 34 };

static void check(VkResult result, const char *call) {
  if (result >= 0) return;
  fprintf(stderr, "%s failed with %d\n", call, result);
  exit(2);
}

struct shader {
  uint32_t *words;
  size_t count;
  char entry[128];
  VkDescriptorSetLayoutBinding bindings[MAX_SETS][MAX_BINDINGS];
  uint32_t numBindings[MAX_SETS];
};

static void readShader(const char *path, struct shader *shader) {
  FILE *file = fopen(path, "rb");
  if (!file) {
    perror(path);
    exit(2);
  }
  fseek(file, 0, SEEK_END);
  shader->count = (size_t)ftell(file) / 4;
  rewind(file);
  shader->words = malloc(shader->count * 4);
  if (fread(shader->words, 4, shader->count, file) != shader->count) exit(2);
  fclose(file);
}

// Which descriptors the shader names, from its decorations: the layout of the pipeline.
static void reflect(struct shader *shader) {
  static struct { uint32_t set, binding, isBound, storage; } ids[MAX_IDS];
  memset(ids, 0, sizeof ids);
  memset(shader->numBindings, 0, sizeof shader->numBindings);
  const uint32_t *w = shader->words;
  for (size_t i = 5; i < shader->count;) {
    const uint32_t op = w[i] & 0xffff, length = w[i] >> 16;
    if (length == 0) break;
    if (op == OP_ENTRY_POINT) strncpy(shader->entry, (const char *)&w[i + 3], sizeof shader->entry - 1);
    if (op == OP_DECORATE && w[i + 1] < MAX_IDS) {
      if (w[i + 2] == DECORATION_SET) ids[w[i + 1]].set = w[i + 3];
      if (w[i + 2] == DECORATION_BINDING) {
        ids[w[i + 1]].binding = w[i + 3];
        ids[w[i + 1]].isBound = 1;
      }
    }
    if (op == OP_VARIABLE && w[i + 2] < MAX_IDS) ids[w[i + 2]].storage = w[i + 3];
    i += length;
  }
  for (uint32_t id = 0; id < MAX_IDS; id++) {
    const uint32_t set = ids[id].set;
    if (!ids[id].isBound || set >= MAX_SETS || shader->numBindings[set] == MAX_BINDINGS) continue;
    const int isUniform = ids[id].storage == 2; // SpvStorageClassUniform
    shader->bindings[set][shader->numBindings[set]++] = (VkDescriptorSetLayoutBinding){
        ids[id].binding, isUniform ? VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER : VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1,
        VK_SHADER_STAGE_COMPUTE_BIT, NULL};
  }
}

static VkDevice openDevice(VkPhysicalDeviceProperties *properties) {
  const VkApplicationInfo application = {VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3};
  const VkInstanceCreateInfo instanceInfo = {VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
  VkInstance instance;
  check(vkCreateInstance(&instanceInfo, NULL, &instance), "vkCreateInstance");
  uint32_t numDevices = 1;
  VkPhysicalDevice physical;
  check(vkEnumeratePhysicalDevices(instance, &numDevices, &physical), "vkEnumeratePhysicalDevices");
  if (numDevices == 0) {
    fprintf(stderr, "no Vulkan device\n");
    exit(2);
  }
  vkGetPhysicalDeviceProperties(physical, properties);
  VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR executables = {
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR};
  VkPhysicalDeviceVulkan13Features features13 = {VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES, &executables};
  VkPhysicalDeviceVulkan12Features features12 = {VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, &features13};
  VkPhysicalDeviceVulkan11Features features11 = {VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES, &features12};
  VkPhysicalDeviceFeatures2 features = {VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, &features11};
  vkGetPhysicalDeviceFeatures2(physical, &features);
  const float priority = 1;
  const VkDeviceQueueCreateInfo queue = {
      VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1, .pQueuePriorities = &priority};
  const char *extensions[] = {VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME};
  const VkDeviceCreateInfo deviceInfo = {VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, &features, .queueCreateInfoCount = 1,
      .pQueueCreateInfos = &queue, .enabledExtensionCount = 1, .ppEnabledExtensionNames = extensions};
  VkDevice device;
  check(vkCreateDevice(physical, &deviceInfo, NULL, &device), "vkCreateDevice");
  return device;
}

static VkPipeline compile(VkDevice device, const struct shader *shader, int withText) {
  VkDescriptorSetLayout sets[MAX_SETS];
  for (int i = 0; i < MAX_SETS; i++) {
    const VkDescriptorSetLayoutCreateInfo info = {VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
        .bindingCount = shader->numBindings[i], .pBindings = shader->bindings[i]};
    check(vkCreateDescriptorSetLayout(device, &info, NULL, &sets[i]), "vkCreateDescriptorSetLayout");
  }
  const VkPushConstantRange constants = {VK_SHADER_STAGE_COMPUTE_BIT, 0, 128};
  const VkPipelineLayoutCreateInfo layoutInfo = {VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
      .setLayoutCount = MAX_SETS, .pSetLayouts = sets, .pushConstantRangeCount = 1, .pPushConstantRanges = &constants};
  VkPipelineLayout layout;
  check(vkCreatePipelineLayout(device, &layoutInfo, NULL, &layout), "vkCreatePipelineLayout");
  const VkShaderModuleCreateInfo moduleInfo = {
      VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = shader->count * 4, .pCode = shader->words};
  VkShaderModule module;
  check(vkCreateShaderModule(device, &moduleInfo, NULL, &module), "vkCreateShaderModule");
  const VkComputePipelineCreateInfo info = {VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
      .flags = VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR |
               (withText ? VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR : 0),
      .stage = {VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO, .stage = VK_SHADER_STAGE_COMPUTE_BIT,
          .module = module, .pName = shader->entry},
      .layout = layout};
  VkPipeline pipeline;
  check(vkCreateComputePipelines(device, VK_NULL_HANDLE, 1, &info, NULL, &pipeline), "vkCreateComputePipelines");
  return pipeline;
}

static void printText(VkDevice device, const VkPipelineExecutableInfoKHR *executable) {
  PFN_vkGetPipelineExecutableInternalRepresentationsKHR get =
      (void *)vkGetDeviceProcAddr(device, "vkGetPipelineExecutableInternalRepresentationsKHR");
  VkPipelineExecutableInternalRepresentationKHR texts[8] = {0};
  uint32_t count = 8;
  for (int i = 0; i < 8; i++) texts[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR;
  check(get(device, executable, &count, texts), "vkGetPipelineExecutableInternalRepresentationsKHR");
  for (uint32_t i = 0; i < count; i++) texts[i].pData = malloc(texts[i].dataSize);
  check(get(device, executable, &count, texts), "vkGetPipelineExecutableInternalRepresentationsKHR");
  for (uint32_t i = 0; i < count; i++) {
    printf("== %s\n%.*s\n", texts[i].name, (int)texts[i].dataSize, (const char *)texts[i].pData);
  }
}

static void report(VkDevice device, VkPipeline pipeline, const char *path, const char *name, int withText) {
  PFN_vkGetPipelineExecutablePropertiesKHR getProperties =
      (void *)vkGetDeviceProcAddr(device, "vkGetPipelineExecutablePropertiesKHR");
  PFN_vkGetPipelineExecutableStatisticsKHR getStatistics =
      (void *)vkGetDeviceProcAddr(device, "vkGetPipelineExecutableStatisticsKHR");
  const VkPipelineInfoKHR pipelineInfo = {VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, .pipeline = pipeline};
  VkPipelineExecutablePropertiesKHR properties = {VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR};
  uint32_t count = 1;
  check(getProperties(device, &pipelineInfo, &count, &properties), "vkGetPipelineExecutablePropertiesKHR");
  const VkPipelineExecutableInfoKHR executable = {VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, .pipeline = pipeline};
  VkPipelineExecutableStatisticKHR statistics[MAX_STATISTICS] = {0};
  for (int i = 0; i < MAX_STATISTICS; i++) statistics[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
  count = MAX_STATISTICS;
  check(getStatistics(device, &executable, &count, statistics), "vkGetPipelineExecutableStatisticsKHR");
  printf("{\"file\":\"%s\",\"device\":\"%s\",\"subgroup\":%u,\"statistics\":{", path, name, properties.subgroupSize);
  for (uint32_t i = 0; i < count; i++) {
    printf("%s\"%s\":%llu", i == 0 ? "" : ",", statistics[i].name, (unsigned long long)statistics[i].value.u64);
  }
  printf("}}\n");
  if (withText) printText(device, &executable);
}

int main(int argc, char **argv) {
  const int withText = argc > 1 && strcmp(argv[1], "--text") == 0;
  VkPhysicalDeviceProperties properties;
  const VkDevice device = openDevice(&properties);
  for (int i = 1 + withText; i < argc; i++) {
    static struct shader shader;
    readShader(argv[i], &shader);
    reflect(&shader);
    report(device, compile(device, &shader, withText), argv[i], properties.deviceName, withText);
    free(shader.words);
  }
  fflush(stdout);
  _exit(0); // the null device does not survive the driver's own clean-up
}
